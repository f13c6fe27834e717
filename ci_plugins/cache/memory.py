"""An index in memory: for one process, for trying things out, and where the disk cannot be used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ci_plugins.cache.forest import (
    TOC_GRACE,
    Node,
    first_of_names,
    is_what_it_says,
    newest_first,
    to_prune,
    toc_digests,
)
from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import Pruned
from ci_plugins.oci import Descriptor, Digest


@dataclass(slots=True)
class _Scope:
    #: with the time of the last use
    records: dict[Digest, tuple[CacheRecord, float]] = field(default_factory=dict)
    images: dict[str, ImageRecord] = field(default_factory=dict)


class MemoryStore:
    """`CacheStore` in dictionaries. `clock` tells seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._scopes: dict[str, _Scope] = {}
        self._tocs: dict[Digest, tuple[bytes, float]] = {}

    @property
    def name(self) -> str:
        return "memory:"

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        found: dict[Digest, CacheRecord] = {}
        with self._lock:
            for scope in self._named(scopes):
                for key in keys:
                    if key not in found and (held := scope.records.get(key)):
                        found[key] = held[0]
        return found

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        now = self._clock()
        with self._lock:
            for record in records:
                self._scopes.setdefault(record.scope, _Scope()).records[record.key] = record, now
            for image in images:
                self._scopes.setdefault(image.scope, _Scope()).images[image.name] = image

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        return newest_first(record for record in self.records(scopes) if record.parent == key)

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        with self._lock:
            images = [image for scope in self._named(scopes) for image in scope.images.values()]
        return first_of_names(images, scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        with self._lock:
            return iter([record for scope in self._named(scopes) for record, _ in scope.records.values()])

    def scopes(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(name for name, scope in self._scopes.items() if scope.records))

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        now = self._clock()
        with self._lock:
            for place in self._named([scope]):
                place.records.update({key: (place.records[key][0], now) for key in keys if key in place.records})

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        with self._lock:
            self._remove(set(keys), scope)

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        with self._lock:
            nodes = [Node.of(*held) for scope in self._scopes.values() for held in scope.records.values()]
            gone, pruned = to_prune(nodes, older_than, max_size)
            for node in gone:
                self._remove({Digest(node.key)}, node.scope)
            named = [toc_digests(record) for scope in self._scopes.values() for record, _ in scope.records.values()]
            wanted = set[Digest]().union(*named)
            fresh = self._clock() - TOC_GRACE
            self._tocs = {key: held for key, held in self._tocs.items() if key in wanted or held[1] >= fresh}
        return pruned

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        with self._lock:
            held = [(descriptor, self._tocs.get(descriptor.digest)) for descriptor, _ in wanted]
        return {item.digest: toc[0] for item, toc in held if toc and is_what_it_says(toc[0], item)}

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        now = self._clock()
        with self._lock:
            self._tocs.update({digest: (data, now) for digest, data in tocs.items()})

    def close(self) -> None:
        """Nothing to give back: what is held goes with the object."""

    def _named(self, scopes: Sequence[str]) -> Iterator[_Scope]:
        for name in dict.fromkeys(scopes):
            if scope := self._scopes.get(name):
                yield scope

    def _remove(self, keys: set[Digest], scope: str) -> None:
        for place in self._named([scope]):
            for key in keys:
                place.records.pop(key, None)
            place.images = {name: image for name, image in place.images.items() if keys.isdisjoint(image.keys)}
