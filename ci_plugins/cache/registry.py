"""An index that many runners share, in the registry that has the layers: it needs nothing else set up.

Every record is an artifact of its own (`registry_documents`), which keeps its layer and tables of contents alive
against garbage collection. A scope's recent records are also in one snapshot, so that a lookup is one GET a scope.

What a registry cannot do: compare and swap, so two writers may take a snapshot back and forth until both see their
records in it; tell when something was used, so `touch` writes a snapshot, and at most once a day for a record; hold
records whose layers it does not have (RecordsLeftOut). `scopes`, `records`, `images`, `remove` and `prune` list
all tags of the repository, which is slow in a large one; deleting is allowed by few registries, elsewhere an empty
artifact takes the place. Who may push to the repository may write to every scope.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from ci_plugins.cache.forest import Node, first_of_names, is_what_it_says, newest_first, to_prune
from ci_plugins.cache.record import KEY_VERSION, CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.cache.registry_documents import (
    EMPTY,
    Entry,
    as_held,
    image_tag,
    kind_of,
    read_any_record,
    read_image,
    read_record,
    read_snapshot,
    record_tag,
    scope_of_record,
    snapshot_tag,
    write_image,
    write_record,
)
from ci_plugins.cache.registry_repository import Batch, BlobMissing, CacheRepository
from ci_plugins.cache.registry_snapshots import Snapshots
from ci_plugins.cache.store import Pruned, RecordsLeftOut
from ci_plugins.errors import RegistryUnreachable
from ci_plugins.layer.toc import MEDIA_TYPE
from ci_plugins.oci import Descriptor, Digest, sha256_digest
from ci_plugins.storage.registry import RegistryClient

A = TypeVar("A")
B = TypeVar("B")

#: tags by kind, by the tag of their scope's snapshot
Tags = defaultdict[str, defaultdict[str, list[str]]]

_DAY = 86400.0
#: A longer list of a COPY's files is not in snapshots, which every build reads; few builds ever ask for one.
_LONGEST_LIST = 1024
#: of how many children it is fetched
_WHOLE = 4


class RegistryStore:
    """`CacheStore` in one repository of a registry, besides whatever else is in it.

    `client_for` gives clients of other registries, for tables of contents that are only there. `patience` is how many
    seconds the requests of one step (all snapshots, all records …) may take together. `clock` tells seconds since the
    epoch. What was read of a scope is kept: a lookup does not see what others write later.
    """

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        client_for: Callable[[str], RegistryClient] | None = None,
        *,
        patience: float = 20.0,
        touch_every: float = _DAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = CacheRepository(client, repository, client_for or _no_client)
        self._patience, self._touch_every, self._clock = patience, touch_every, clock
        self._snapshots = Snapshots(self._repository, patience)
        self._lock = threading.Lock()
        #: tables of contents that no record names yet, and those that are on their way
        self._staged: dict[Digest, bytes] = {}
        self._sending: dict[Digest, Batch[bytes, bool]] = {}

    @property
    def name(self) -> str:
        return self._repository.name

    # -- for building -----------------------------------------------------------------------------------------------

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        """Keys that no snapshot has are looked for one by one in the scopes whose snapshot says that there are more,
        or cannot be read."""
        names = list(dict.fromkeys(scopes))
        snapshots = self._snapshots.get(names) if keys else {}
        found: dict[Digest, CacheRecord] = {}
        for scope in snapshots:
            for key in keys:
                entry = snapshots[scope].entries.get(key)
                if key not in found and entry and (record := entry.record(scope)):
                    found[key] = record
        unsure = [scope for scope in snapshots if not snapshots[scope].complete]
        asked = [(scope, key) for scope in unsure for key in dict.fromkeys(keys) if key not in found]
        for place, entry in zip(asked, self._together(self._one, asked), strict=True):
            if entry and (record := entry.record(place[0])):
                found.setdefault(record.key, record)
        return found

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        """Many at once cost less than one by one: each call writes the snapshots of its scopes."""
        if not records and not images:
            return
        self._together(lambda _: self._repository.hold_empty(), [None])
        works = [partial(self._store, record) for record in records] + [partial(self._store_image, i) for i in images]
        stored = self._together(lambda work: work(), works)[: len(records)]
        written: dict[str, list[Entry]] = defaultdict(list)
        for record, entry in zip(records, stored, strict=True):
            if entry:
                written[record.scope].append(entry)
        for scope, entries in written.items():
            self._snapshots.add(scope, entries)
        left_out = [record for record, entry in zip(records, stored, strict=True) if entry is None]
        if left_out:
            raise RecordsLeftOut(_explained(left_out, self.name), len(left_out))

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        """Only records of the snapshot: the longest unused are not in there any more."""
        now = self._clock()
        snapshot = self._snapshots.get([scope])[scope]
        known = [snapshot.entries[key] for key in keys if key in snapshot.entries]
        if old := [entry for entry in known if entry.used + self._touch_every <= now]:
            self._snapshots.add(scope, [replace(entry, used=round(now, 3)) for entry in old])

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        """From this repository, else from those named."""
        answers = self._together(self._toc, wanted)
        return {item.digest: data for (item, _), data in zip(wanted, answers, strict=True) if data is not None}

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        """Begins to send them. If garbage collection takes one before a record names it, it is sent again."""
        with self._lock:
            for digest in tocs.keys() - self._staged.keys():
                self._staged[digest] = tocs[digest]
                self._sending[digest] = Batch(self._send_toc, [tocs[digest]])

    def close(self) -> None:
        """Sees to it that this process's records have stayed in the snapshots."""
        self._snapshots.settle()

    # -- for looking at ---------------------------------------------------------------------------------------------

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        """From snapshots that are complete it costs no more than a lookup, and a GET for each of the newest that is not
        whole there."""
        names = list(dict.fromkeys(scopes))
        snapshots = self._snapshots.get(names)
        if all(snapshot.complete for snapshot in snapshots.values()):
            # most entries are of other parents: they need not be read
            some = [
                (entry, scope) for scope in names for entry in snapshots[scope].entries.values() if key in entry.text
            ]
            records = [record for entry, scope in some if (record := entry.record(scope))]
        else:
            records = list(self.records(names))
        found = newest_first(record for record in records if record.parent == key)
        return (*self._together(self._whole, found[:_WHOLE]), *found[_WHOLE:])

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        tags = self._tags()
        found = [image for scope in dict.fromkeys(scopes) for image in self._images(scope, tags)]
        return first_of_names(found, scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        tags = self._tags()
        for scope in dict.fromkeys(scopes):
            for entry in self._entries(scope, tags).values():
                if record := entry.record(scope):
                    yield record

    def scopes(self) -> tuple[str, ...]:
        return tuple(sorted(self._scopes(self._tags())))

    # -- for forgetting ---------------------------------------------------------------------------------------------

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        if keys:
            self._remove(set(keys), scope, self._tags())

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        """Reads all records. What is removed is free once the registry has collected its garbage."""
        tags = self._tags()
        nodes: list[Node] = []
        for scope in self._scopes(tags):
            for entry in self._entries(scope, tags).values():
                record = entry.record(scope)
                nodes.append(Node.of(record, entry.used) if record else Node(scope, entry.key, "", "", 0, entry.used))
        gone, pruned = to_prune(nodes, older_than, max_size)
        for scope in dict.fromkeys(node.scope for node in gone):
            self._remove({Digest(node.key) for node in gone if node.scope == scope}, scope, tags)
        return pruned

    def _remove(self, keys: set[Digest], scope: str, tags: Tags) -> None:
        images = [image for image in self._images(scope, tags) if not keys.isdisjoint(image.keys)]
        doomed = [record_tag(scope, key) for key in keys] + [image_tag(scope, image.name) for image in images]
        self._together(self._repository.remove, doomed)
        self._snapshots.drop(scope, keys)

    # -- one of many ------------------------------------------------------------------------------------------------

    def _store(self, record: CacheRecord) -> Entry | None:
        """None if its layer cannot be held here."""
        try:
            return self._write(record)
        except BlobMissing:  # collected since it was seen
            tocs = [layer.toc for layer in _layers(record) if layer.toc]
            self._repository.forget([EMPTY, *tocs, *([record.layer.descriptor] if record.layer else [])])
        try:
            self._repository.hold_empty()
            return self._write(record)
        except BlobMissing:
            return None

    def _write(self, record: CacheRecord) -> Entry | None:
        blobs: list[Descriptor] = []
        if record.layer:
            blobs.append(as_held(record.layer.descriptor))
            if not self._repository.hold(blobs[0], record.repositories):
                return None
        tocs = [layer.toc for layer in _layers(record) if layer.toc]
        blobs += [as_held(toc) for toc in tocs if self._hold_toc(toc, record.repositories)]
        now = round(self._clock(), 3)
        entry = Entry(record.key, KEY_VERSION, now, record.to_json(), tuple(dict.fromkeys(blobs)))
        self._repository.put(record_tag(record.scope, record.key), write_record(record.scope, entry))
        with self._lock:
            for toc in tocs:
                self._staged.pop(toc.digest, None)
        return replace(entry, text=_in_snapshot(record).to_json())

    def _store_image(self, image: ImageRecord) -> None:
        self._repository.put(image_tag(image.scope, image.name), write_image(image))

    def _hold_toc(self, toc: Descriptor, repositories: Sequence[str]) -> bool:
        with self._lock:
            data, sending = self._staged.get(toc.digest), self._sending.pop(toc.digest, None)
        if sending is not None:
            sending.wait(self._patience)  # what went wrong goes wrong once more, or does not
        return self._repository.hold(toc, repositories, data)

    def _send_toc(self, data: bytes) -> bool:
        return self._repository.hold(Descriptor(MEDIA_TYPE, sha256_digest(data), len(data)), data=data)

    def _one(self, place: tuple[str, Digest]) -> Entry | None:
        raw = self._repository.get(record_tag(*place))
        return read_record(raw, *place) if raw else None

    def _whole(self, record: CacheRecord) -> CacheRecord:
        """With the list of files that snapshots leave out."""
        if "content" not in record.inputs or "files" in record.inputs:
            return record
        entry = self._one((record.scope, record.key))
        return (entry.record(record.scope) if entry else None) or record

    def _toc(self, wanted: tuple[Descriptor, Sequence[str]]) -> bytes | None:
        descriptor, repositories = wanted
        with self._lock:
            data = self._staged.get(descriptor.digest)
        if data is not None:
            return data if is_what_it_says(data, descriptor) else None
        return self._repository.blob(descriptor, repositories)

    # -- all there is -----------------------------------------------------------------------------------------------

    def _tags(self) -> Tags:
        found: Tags = defaultdict(lambda: defaultdict(list))
        for tag in self._together(lambda _: self._repository.tags(), [None])[0]:
            if known := kind_of(tag):
                kind, scope = known
                found[scope][kind].append(tag)
        return found

    def _scopes(self, tags: Tags) -> set[str]:
        """By their names, which snapshots and records carry; those that have records."""
        raws = self._together(self._repository.get, [tag for kinds in tags.values() for tag in kinds["snapshot"]])
        snapshots = {snapshot_tag(one.scope): one for raw in raws if raw and (one := read_snapshot(raw))}
        names = {one.scope for one in snapshots.values() if one.entries}
        unsure = [kinds["record"] for tag, kinds in tags.items() if tag not in snapshots or not snapshots[tag].complete]
        for raw in self._together(self._repository.get, [tag for some in unsure for tag in some]):
            if raw and (scope := scope_of_record(raw)) is not None:
                names.add(scope)
        return names

    def _entries(self, scope: str, tags: Tags) -> dict[Digest, Entry]:
        """What the snapshot has, as far as it is there, and what it does not have."""
        listed = set(tags[snapshot_tag(scope)]["record"])
        snapshot = self._snapshots.read(scope).entries
        entries = {key: entry for key, entry in snapshot.items() if record_tag(scope, key) in listed}
        others = sorted(listed.difference(record_tag(scope, key) for key in entries))
        for raw in self._together(self._repository.get, others):
            if raw and (entry := read_any_record(raw, scope)):
                entries[entry.key] = entry
        return entries

    def _images(self, scope: str, tags: Tags) -> list[ImageRecord]:
        raws = self._together(self._repository.get, tags[snapshot_tag(scope)]["image"])
        return [image for raw in raws if raw and (image := read_image(raw, scope))]

    def _together(self, work: Callable[[A], B], items: Sequence[A]) -> list[B]:
        return self._repository.together(work, items, self._patience)


def _layers(record: CacheRecord) -> tuple[RecordedLayer, ...]:
    return (*([record.layer] if record.layer else []), *record.base)


def _explained(records: Sequence[CacheRecord], store: str) -> str:
    some = ", ".join(repr(record.instruction) for record in records[:3]) + (", …" if len(records) > 3 else "")
    return (
        f"{len(records)} of the records are not in {store}, because their layers are neither in that repository "
        f"nor in one it can take them from: {some}"
    )


def _in_snapshot(record: CacheRecord) -> CacheRecord:
    if len(record.inputs.get("files", "")) <= _LONGEST_LIST:
        return record
    return replace(record, inputs={name: value for name, value in record.inputs.items() if name != "files"})


def _no_client(registry: str) -> RegistryClient:
    raise RegistryUnreachable(f"there is no connection to {registry} for the cache")
