"""Cache mounts between runners: which index is read, which is written, and what happens when that fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ci_plugins.errors import CiPluginsError, Interrupted, state_errors
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.mounts.catch_up import lacking, place
from ci_plugins.mounts.current import DOWN, current
from ci_plugins.mounts.index import DamagedIndex, MountIndex
from ci_plugins.mounts.known import Known, Summary
from ci_plugins.mounts.listing import Limits, walk
from ci_plugins.mounts.restore import OUT_OF_TIME, restore
from ci_plugins.mounts.save import Mount, Saved, save
from ci_plugins.mounts.side_by_side import side_by_side
from ci_plugins.mounts.slots import Slot, clear
from ci_plugins.mounts.spec import MountSpec
from ci_plugins.mounts.store import ChunkStore
from ci_plugins.oci import hex_of, sha256_digest

#: Seconds that a step whose mount is here waits for the store's answer, and after which it is not sent more.
_ASKING, _FETCHING = 2.0, 20.0


class Travel:
    """Restores and saves mounts of one build. Thread safe. What goes wrong is told to the recorder and never fails the
    build; a store that was down once is not asked again."""

    def __init__(self, store: ChunkStore, scopes: Sequence[str], limits: Limits, recorder: Recorder) -> None:
        self._store, self._scopes, self._limits, self._recorder = store, tuple(scopes), limits, recorder
        self._down = False

    def restore(self, slot: Slot, spec: MountSpec, new: Path, parent: ActiveSpan, stop: threading.Event) -> bool:
        """Fill the empty directory `new`. False, and the directory empty, if there is nothing to fill it with."""
        if self._down:
            return False
        with self._recorder.span("mount", spec.id, parent, action="restore") as span:
            try:
                for scope in self._scopes:
                    if self._restored(slot, spec, index_name(scope, spec), new, span, stop):
                        span.set(result="restored", scope=scope)
                        return True
                span.set(result="nothing")
            except Interrupted:
                raise
            except (CiPluginsError, OSError) as error:
                self._warn(f"the cache mount {spec.id} begins empty", error)
                span.set(result="failed")
                with state_errors(new):
                    clear(new)
                    new.mkdir(mode=0o755)
        return False

    def save(self, slot: Slot, spec: MountSpec, parent: ActiveSpan, stop: threading.Event) -> Saved:
        if self._down or not slot.data.is_dir():
            return Saved(spec.id, "store unreachable" if self._down else "unchanged")
        mount = Mount(slot.path, spec.id, index_name(self._scopes[0], spec))
        with self._recorder.span("mount", spec.id, parent, action="save") as span:
            try:
                saved = save(mount, self._store, self._limits, span, stop)
            except Interrupted:
                raise
            except (CiPluginsError, OSError) as error:
                self._warn(f"the cache mount {spec.id} is not saved", error)
                saved = Saved(spec.id, "failed")
            span.set(result=saved.result, bytes=saved.bytes, entries=saved.files, sent_bytes=saved.sent)
        return saved

    def catch_up(self, slot: Slot, spec: MountSpec, new: Path, *, parent: ActiveSpan, stop: threading.Event) -> None:
        """Add to a directory that is there what others have saved since; `new` is a directory to work in, and removed.
        A store that does not answer soon is not waited for."""
        if self._down:
            return
        try:
            if name := self._changed(Summary.read(slot.path), spec, stop):
                self._add(slot, spec, name, new, parent, stop)
        except Interrupted:
            raise
        except (CiPluginsError, OSError) as error:
            self._warn(f"the cache mount {spec.id} is used as it is on this machine", error)
        finally:
            with state_errors(new):
                clear(new)

    def _changed(self, summary: Summary | None, spec: MountSpec, stop: threading.Event) -> str | None:
        """The name of the index that counts, if the directory was not compared with it yet. Raises TimeoutError."""
        for scope in self._scopes:
            name = index_name(scope, spec)
            (stamp,) = side_by_side(self._store.stamp, [name], 1, stop, _ASKING)
            if stamp is not None:
                known = summary is not None and summary.store == self._store.name and summary.seen == stamp
                return None if known else name
        return None

    def _add(
        self, slot: Slot, spec: MountSpec, name: str, new: Path, parent: ActiveSpan, stop: threading.Event
    ) -> None:
        found = current(name, self._store, "", time.time() - self._limits.age, stop, _FETCHING)
        if found.index is None:
            return
        known = Known.read(slot.path)
        if known is None or known.summary.store != self._store.name:
            known = Known.none(self._store.name, name)
        here = {one.path for one in walk(slot.data)}
        missing = lacking(found.index, here, known.index)
        lost: tuple[str, ...] = ()
        if len(missing.nodes) > 1:
            with self._recorder.span("mount", spec.id, parent, action="restore") as span:
                with state_errors(new):
                    clear(new)
                    new.mkdir(mode=0o700)
                restored = restore(missing, self._store, new, span, stop, _FETCHING)
                with state_errors(slot.data):
                    count = place(restored.index.nodes, new, slot.data)
                lost = restored.lost
                span.set(result="added", bytes=restored.bytes, entries=count, received_bytes=restored.received)
        if OUT_OF_TIME not in lost:
            summary = replace(known.summary, seen=found.stamp or "")
            replace(known, summary=summary).write(slot.path)

    def _restored(
        self, slot: Slot, spec: MountSpec, name: str, new: Path, span: ActiveSpan, stop: threading.Event
    ) -> bool:
        (data,) = side_by_side(self._store.index, [name], 1, stop)
        if data is None:
            return False
        try:
            index = MountIndex.from_bytes(data)
        except DamagedIndex as error:
            self._recorder.warn(f"the saved cache mount {spec.id} cannot be read: {error}")
            return False
        if time.time() - index.saved > self._limits.age:
            return False
        restored = restore(index, self._store, new, span, stop)
        if restored.lost:
            self._recorder.warn(
                f"the cache mount {spec.id} lacks {len(index.nodes) - len(restored.index.nodes)} of its files: "
                f"{restored.lost[0]}"
            )
        span.set(bytes=restored.bytes, entries=restored.files, received_bytes=restored.received)
        known = Known.of(self._store.name, name, restored.index, walk(new), sha256_digest(data))
        # of a damaged copy a whole one is to be saved, changed or not
        if restored.lost:
            known = replace(known, summary=replace(known.summary, state=""))
        known.write(slot.path)
        return True

    def _warn(self, what: str, error: Exception) -> None:
        self._down = self._down or isinstance(error, DOWN)
        self._recorder.warn(f"{what}: {error}")


def index_name(scope: str, spec: MountSpec) -> str:
    """What the index of a mount is called in a store: 40 hex digits."""
    return hex_of(sha256_digest(json.dumps([scope, spec.key]).encode()))[:40]
