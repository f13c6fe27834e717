"""Two stores as one: the local index first, then what all runners share. Either may fail, the build may not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from ci_plugins.cache.forest import first_of_names, newest_first
from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheDamaged, CacheStore, CacheUnavailable, Pruned, RecordsLeftOut
from ci_plugins.oci import Descriptor, Digest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Losses:
    """What a store did not do in this process: keys not looked up, records and tables of contents not stored or not
    read, other requests. `reason` is its first error, None for records that it could not hold."""

    store: str
    reason: str | None
    keys: int = 0
    records: int = 0
    tocs: int = 0
    requests: int = 0

    def __str__(self) -> str:
        counted = {
            "keys not looked up": self.keys,
            "records not stored": self.records,
            "tables of contents not read or stored": self.tocs,
            "other requests not made": self.requests,
        }
        lost = ", ".join(f"{count} {what}" for what, count in counted.items() if count)
        return f"lost with the cache {self.store}: {lost or 'nothing'}"


class ChainedStore:
    """`CacheStore` over a local and a shared one, either of which may be missing.

    Lookups ask the local store, then the shared one for the rest, all at once, and keep locally what it answers. A
    store that fails is told to `warn` once and not asked again, what it did not do is counted in `losses`; nothing
    here raises CacheUnavailable. `renew` makes a new local store in the place of a damaged one.
    """

    def __init__(
        self,
        local: CacheStore | None,
        shared: CacheStore | None,
        warn: Callable[[str], None],
        *,
        renew: Callable[[], CacheStore] | None = None,
    ) -> None:
        self._local = _Link(local, warn, renew)
        self._shared = _Link(shared, warn, None)
        self._links = (self._local, self._shared)

    @property
    def name(self) -> str:
        return ", then ".join(link.name for link in self._links if link.name)

    @property
    def losses(self) -> tuple[Losses, ...]:
        """One for each store that has failed or left something out."""
        return tuple(losses for link in self._links if (losses := link.losses) is not None)

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        nothing: Mapping[Digest, CacheRecord] = {}
        found = self._local.ask(lambda store: store.lookup(keys, scopes), nothing, keys=len(keys))
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if not missing:
            return found
        more = self._shared.ask(lambda store: store.lookup(missing, scopes), nothing, keys=len(missing))
        if more:
            self._local.ask(lambda store: store.put(tuple(more.values())), None, records=len(more))
        return {**found, **more}

    def lookup_in_each(self, keys: Sequence[Digest], scopes: Sequence[str]) -> list[Mapping[Digest, CacheRecord]]:
        """What each store answers by itself, for records that change: nothing of the shared one is kept locally."""
        nothing: Mapping[Digest, CacheRecord] = {}
        return [link.ask(lambda store: store.lookup(keys, scopes), nothing, keys=len(keys)) for link in self._links]

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        if records or images:
            self._both(lambda store: store.put(records, images), records=len(records), requests=bool(images))

    def put_local(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        """On this machine only: what no other can use yet, because its blobs are here."""
        if records or images:
            self._local.ask(lambda store: store.put(records, images), None, records=len(records))

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        nothing: tuple[CacheRecord, ...] = ()
        answers = self._each(lambda store: store.children(key, scopes), nothing)
        # one of them may know less: snapshots leave long inputs out
        known = sorted((record for answer in answers for record in answer), key=lambda record: -len(record.inputs))
        return newest_first(_first_of_each(known))

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        nothing: tuple[ImageRecord, ...] = ()
        answers = self._each(lambda store: store.images(scopes), nothing)
        return first_of_names((image for answer in answers for image in answer), scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        nothing: tuple[CacheRecord, ...] = ()
        answers = self._each(lambda store: tuple(store.records(scopes)), nothing)
        return _first_of_each(record for answer in answers for record in answer)

    def scopes(self) -> tuple[str, ...]:
        nothing: tuple[str, ...] = ()
        return tuple(sorted(set[str]().union(*self._each(lambda store: store.scopes(), nothing))))

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        if keys:
            self._both(lambda store: store.touch(keys, scope), requests=1)

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        if keys:
            self._both(lambda store: store.remove(keys, scope), requests=1)

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        """Each store by itself; the sum of what was removed."""
        pruned = self._each(lambda store: store.prune(older_than=older_than, max_size=max_size), Pruned(0, 0))
        return Pruned(sum(one.records for one in pruned), sum(one.bytes for one in pruned))

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        nothing: Mapping[Digest, bytes] = {}
        found = self._local.ask(lambda store: store.tocs(wanted), nothing, tocs=len(wanted))
        missing = [item for item in wanted if item[0].digest not in found]
        if not missing:
            return found
        more = self._shared.ask(lambda store: store.tocs(missing), nothing, tocs=len(missing))
        if more:
            self._local.ask(lambda store: store.put_tocs(more), None, tocs=len(more))
        return {**found, **more}

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        if tocs:
            self._both(lambda store: store.put_tocs(tocs), tocs=len(tocs))

    def close(self) -> None:
        for link in self._links:
            link.close()

    def _each(self, question: Callable[[CacheStore], T], otherwise: T) -> list[T]:
        return [link.ask(question, otherwise, requests=1) for link in self._links]

    def _both(self, command: Callable[[CacheStore], None], **amounts: int) -> None:
        for link in self._links:
            link.ask(command, None, **amounts)


class _Link:
    """A store, for as long as it works."""

    def __init__(
        self, store: CacheStore | None, warn: Callable[[str], None], renew: Callable[[], CacheStore] | None
    ) -> None:
        self._store, self._warn, self._renew = store, warn, renew
        self._lock = threading.Lock()
        self._losses = Losses(store.name if store else "", None)
        self._told = False

    @property
    def name(self) -> str:
        return self._losses.store

    @property
    def losses(self) -> Losses | None:
        lost = self._losses
        return lost if lost.reason or lost.keys or lost.records or lost.tocs or lost.requests else None

    def ask(self, question: Callable[[CacheStore], T], otherwise: T, **amounts: int) -> T:
        """The store's answer, or `otherwise`; `amounts` is what is lost then."""
        store = self._store
        if store is not None:
            try:
                return question(store)
            except RecordsLeftOut as error:
                self._left_out(error)
                return otherwise
            except CacheUnavailable as error:
                self._failed(store, error)
        if self._losses.store:
            self._count(**amounts)
        return otherwise

    def close(self) -> None:
        """Some stores finish their work only here."""
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except CacheUnavailable as error:
                self._tell(f"{error}; what this build has found may be missing there")

    def _failed(self, store: CacheStore, error: CacheUnavailable) -> None:
        with self._lock:
            if self._store is not store:
                return  # another thread was quicker
            self._store = None
            self._losses = replace(self._losses, reason=self._losses.reason or str(error))
            if isinstance(error, CacheDamaged) and self._renew is not None:
                self._begin_anew(store, error, self._renew)
            else:
                self._warn(f"{error}; the build goes on without it")

    def _begin_anew(self, store: CacheStore, error: CacheDamaged, renew: Callable[[], CacheStore]) -> None:
        """Once: what is damaged again has other reasons than bad luck."""
        self._renew = None
        try:
            store.close()
            self._store = renew()
            self._warn(f"{error}; a new one is begun")
        except CacheUnavailable as again:
            self._warn(f"{error}; the build goes on without it ({again})")

    def _left_out(self, error: RecordsLeftOut) -> None:
        self._count(records=error.count)
        self._tell(str(error))

    def _tell(self, message: str) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            self._warn(message)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            counted = {name: getattr(self._losses, name) + amount for name, amount in amounts.items()}
            self._losses = replace(self._losses, **counted)


def _first_of_each(records: Iterable[CacheRecord]) -> Iterator[CacheRecord]:
    """Of what both stores have, the local record."""
    seen: dict[tuple[str, Digest], CacheRecord] = {}
    for record in records:
        seen.setdefault((record.scope, record.key), record)
    return iter(seen.values())
