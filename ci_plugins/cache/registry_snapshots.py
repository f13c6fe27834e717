"""The snapshots of a registry cache: read once, written by many who cannot lock each other out.

A registry has no compare-and-swap. Who writes reads again, and if somebody else's snapshot has taken the place of his
in the meantime, merges both and writes once more. The records themselves are artifacts that nobody overwrites.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from ci_plugins.cache.registry_documents import (
    MOST_RECORDS,
    Entry,
    Snapshot,
    kind_of,
    read_any_record,
    read_snapshot,
    record_tag,
    snapshot_tag,
    write_snapshot,
)
from ci_plugins.cache.registry_repository import BlobMissing, CacheRepository
from ci_plugins.cache.store import CacheUnavailable
from ci_plugins.oci import Digest

A = TypeVar("A")
B = TypeVar("B")

_ATTEMPTS = 10
#: seconds: the longest wait before the second attempt, and before any
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
#: seconds after which another look is taken where others write too: about what one of them needs to read and write
_SETTLE = 0.3


class Snapshots:
    """Thread safe. Raises CacheUnavailable; `patience` is how many seconds the requests of one step may take."""

    def __init__(self, repository: CacheRepository, patience: float) -> None:
        self._repository, self._patience = repository, patience
        self._writing = threading.Lock()
        self._known: dict[str, Snapshot] = {}
        #: the last that was read or written, by scope: mostly it is still that
        self._read_before: dict[str, tuple[bytes, Snapshot]] = {}
        #: how this process has left it, by scope
        self._left: dict[str, Snapshot] = {}
        #: what this process has written, by scope: it has to be in the snapshot in the end
        self._own: dict[str, dict[Digest, Entry]] = {}
        #: scopes in which another writer was met
        self._contended: set[str] = set()

    def get(self, scopes: Sequence[str]) -> dict[str, Snapshot]:
        """In this order, read at most once."""
        unknown = [scope for scope in scopes if scope not in self._known]
        for snapshot in self._together(self._read, unknown):
            self._known.setdefault(snapshot.scope, snapshot)
        return {scope: self._known[scope] for scope in scopes}

    def read(self, scope: str) -> Snapshot:
        """As it is now."""
        return self._together(self._read, [scope])[0]

    def add(self, scope: str, entries: Iterable[Entry]) -> None:
        """`settle` finds out whether they have stayed."""
        with self._writing:
            self._own.setdefault(scope, {}).update({entry.key: entry for entry in entries})
            self._publish(scope, set(), until_seen=False)

    def drop(self, scope: str, keys: Collection[Digest]) -> None:
        with self._writing:
            own = self._own.setdefault(scope, {})
            for key in keys:
                own.pop(key, None)
            self._publish(scope, set(keys))

    def settle(self) -> None:
        """A last look whether all that was added is there: a writer who began earlier may have ended later."""
        with self._writing:
            for scope in self._own:
                self._publish(scope, set())
            if self._contended:
                time.sleep(_SETTLE * random.uniform(0.5, 1.0))
                for scope in self._own:
                    self._publish(scope, set())
            self._own.clear()

    # -- writing ----------------------------------------------------------------------------------------------------

    def _publish(self, scope: str, gone: set[Digest], *, until_seen: bool = True) -> None:
        """Write until what is there has all of this process's entries and none of those that are gone, or once."""
        for attempt in range(_ATTEMPTS + 1):
            current = self.read(scope)
            if self._is_contended(current) and attempt:
                time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))
                current = self.read(scope)  # what is written shall be old by one request, not by the wait
            if not current.known:
                current = self._recovered(scope)
            raw, wanted = write_snapshot(scope, self._merged(current, gone), current.complete and attempt < _ATTEMPTS)
            if current.known and wanted.entries == current.entries:
                self._known[scope] = self._left[scope] = current
                return
            try:
                self._together(lambda raw: self._repository.put(snapshot_tag(scope), raw), [raw])
                self._known[scope] = self._left[scope] = wanted
                self._read_before[scope] = raw, wanted
                if not until_seen:
                    return
            except CacheUnavailable as error:
                if not isinstance(error.__cause__, BlobMissing) or not (lost := self._without_blobs(wanted)):
                    raise
                gone |= lost

    def _is_contended(self, current: Snapshot) -> bool:
        left = self._left.get(current.scope)
        if left is None or left.entries == current.entries:
            return False
        self._contended.add(current.scope)
        return True

    def _merged(self, current: Snapshot, gone: Collection[Digest]) -> list[Entry]:
        entries = dict(current.entries)
        for key, entry in self._own.get(current.scope, {}).items():
            if key not in entries or entries[key].used < entry.used:
                entries[key] = entry
        return [entry for key, entry in entries.items() if key not in gone]

    def _without_blobs(self, snapshot: Snapshot) -> set[Digest]:
        """The entries of which a blob is not there any more."""
        blobs = list({blob.digest: blob for entry in snapshot.entries.values() for blob in entry.blobs}.values())
        there = self._together(self._repository.has_now, blobs)
        lost = {blob.digest for blob, held in zip(blobs, there, strict=True) if not held}
        return {
            entry.key for entry in snapshot.entries.values() if not lost.isdisjoint(blob.digest for blob in entry.blobs)
        }

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self, scope: str) -> Snapshot:
        """One that is not there is empty and complete: nothing was ever finished in this scope. One that cannot be
        read is empty, and says nothing about what there is."""
        raw = self._repository.get(snapshot_tag(scope))
        if raw is None:
            return Snapshot(scope, {}, complete=True, known=False)
        before = self._read_before.get(scope)
        if before is not None and before[0] == raw:
            return before[1]
        snapshot = read_snapshot(raw, scope) or Snapshot(scope, {}, complete=False, known=False)
        if snapshot.known:
            self._repository.note_empty()
            self._read_before[scope] = raw, snapshot
        return snapshot

    def _recovered(self, scope: str) -> Snapshot:
        """What a new snapshot begins with: the records of the one that was lost, if there was one."""
        own = {record_tag(scope, key) for key in self._own.get(scope, ())}
        try:
            tags = self._together(lambda _: self._repository.tags(), [None])[0]
            lost = [tag for tag in tags if kind_of(tag) == ("record", snapshot_tag(scope)) and tag not in own]
            raws = self._together(self._repository.get, lost[:MOST_RECORDS])
        except CacheUnavailable:  # not every registry lists tags; then it can only be said that there may be more
            return Snapshot(scope, {}, complete=False, known=False)
        found = [entry for raw in raws if raw and (entry := read_any_record(raw, scope))]
        return Snapshot(scope, {entry.key: entry for entry in found}, len(lost) <= MOST_RECORDS, known=False)

    def _together(self, work: Callable[[A], B], items: Sequence[A]) -> list[B]:
        return self._repository.together(work, items, self._patience)
