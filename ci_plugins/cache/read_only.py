"""A store that is only looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheStore, Pruned
from ci_plugins.oci import Descriptor, Digest


class ReadOnlyStore:
    """`CacheStore` over another one: it answers, and what would change it does nothing."""

    def __init__(self, store: CacheStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        return self._store.lookup(keys, scopes)

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        return self._store.children(key, scopes)

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        return self._store.images(scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        return self._store.records(scopes)

    def scopes(self) -> tuple[str, ...]:
        return self._store.scopes()

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        return self._store.tocs(wanted)

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        pass

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        pass

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        pass

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        pass

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        return Pruned(0, 0)

    def close(self) -> None:
        self._store.close()
