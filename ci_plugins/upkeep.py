"""`ci-plugins cache`: what a cache holds, why, and what of it is worth keeping."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

from ci_plugins.cache.find import Chain, find_chain
from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.open import open_store
from ci_plugins.cache.record import RecordedLayer
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheStore, CacheUnavailable, Pruned
from ci_plugins.cache.tree import ScopeTree, forest
from ci_plugins.cache.verify import Here, Verified
from ci_plugins.cache.verify import verify as verify_store
from ci_plugins.errors import StateError
from ci_plugins.oci import Descriptor, Digest, Reference
from ci_plugins.options.settings import CacheOptions
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.registry import RegistryClient, RegistryListing


@dataclass(frozen=True, slots=True)
class Found:
    """A chain, and which of its layers' blobs this machine has."""

    store: str
    chain: Chain
    here: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """`freed` bytes were removed from this machine: blobs that no step stands for any more."""

    store: str
    pruned: Pruned
    freed: int


def tree(options: CacheOptions) -> tuple[str, tuple[ScopeTree, ...]]:
    """The store's name and its scopes. Raises CiPluginsError, like all here."""
    with _opened(options) as (store, _):
        return store.name, forest(store)


def why(options: CacheOptions) -> Found:
    with _opened(options) as (store, _):
        chain = find_chain(store, options.subject or "")
        local = _Local(options.state)
        layers = [record.layer for record in chain.steps if record.layer]
        here = frozenset(layer.descriptor.digest for layer in layers if local.has(layer))
        return Found(store.name, chain, here)


def prune(options: CacheOptions) -> Forgotten:
    age = options.older_than
    with _opened(options) as (store, _):
        before = _layers(store)
        pruned = store.prune(
            older_than=datetime.now(UTC) - timedelta(seconds=age) if age is not None else None,
            max_size=options.max_size,
        )
        gone = before.keys() - _layers(store).keys()
        local = _Local(options.state) if _is_local(options) else None
        freed = sum(local.remove(before[digest]) for digest in gone) if local else 0
        return Forgotten(store.name, pruned, freed)


def verify(options: CacheOptions) -> tuple[str, Verified]:
    """Blobs of this machine are read whole; those that are damaged are removed."""
    with _opened(options) as (store, client):
        local = _Local(options.state)
        here = Here(blob=local.is_whole, toc=local.has_toc) if _is_local(options) else Here(_never, _never)
        return store.name, verify_store(store, here, partial(_has_blob, client))


# -- the store ---------------------------------------------------------------------------------------------------------


def _is_local(options: CacheOptions) -> bool:
    return options.cache in ("auto", "off")


@contextmanager
def _opened(options: CacheOptions) -> Iterator[tuple[CacheStore, Callable[[str], RegistryClient]]]:
    """The cache that was named, and a client of any registry. An index that is not there is empty."""
    with ExitStack() as stack:

        @cache
        def client(registry: str) -> RegistryClient:
            made = RegistryClient(registry, insecure=frozenset(options.insecure_registries))
            stack.callback(made.close)
            return made

        try:
            store = _store(options, client)
            stack.callback(store.close)
            yield store, client
        except CacheUnavailable as error:
            local = _is_local(options) or options.cache.startswith("sqlite:")
            remedy = (
                "A build replaces an index that is damaged." if local else "Check --cache, and that it can be reached."
            )
            raise StateError(str(error), remedy=remedy) from error


def _store(options: CacheOptions, client: Callable[[str], RegistryClient]) -> CacheStore:
    if not _is_local(options):
        return open_store(options.cache, client)
    index = options.state / "index.sqlite"
    return SqliteStore(index) if index.exists() else MemoryStore()


def _layers(store: CacheStore) -> dict[Digest, RecordedLayer]:
    """Those of all steps, by the digests of their blobs."""
    records = [record for scope in store.scopes() for record in store.records([scope])]
    return {record.layer.descriptor.digest: record.layer for record in records if record.layer}


def _has_blob(client: Callable[[str], RegistryClient], place: str, blob: Descriptor) -> bool:
    reference = Reference.parse(place)
    return RegistryListing(client(reference.registry)).has_blob(reference.repository, blob)


# -- this machine ------------------------------------------------------------------------------------------------------


def _never(layer: RecordedLayer) -> bool:
    return False


class _Local:
    """The blobs and tables of contents of a state directory, which need not be there."""

    def __init__(self, state: Path) -> None:
        self._blobs = LocalStore(state) if state.is_dir() else None
        self._layers = LayerCache(state) if state.is_dir() else None

    def has(self, layer: RecordedLayer) -> bool:
        return self._blobs is not None and self._blobs.has(layer.descriptor)

    def is_whole(self, layer: RecordedLayer) -> bool:
        """Reads it all. One that is damaged is removed: it would only be found out when it is needed."""
        if self._blobs is None or not self._blobs.has(layer.descriptor):
            return False
        with self._blobs.path(layer.descriptor.digest).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if f"sha256:{digest}" == layer.descriptor.digest:
            return True
        self._blobs.remove(layer.descriptor.digest)
        return False

    def has_toc(self, layer: RecordedLayer) -> bool:
        return self._layers is not None and self._layers.toc(layer.diff_id) is not None

    def remove(self, layer: RecordedLayer) -> int:
        """The bytes that were freed."""
        if not self.has(layer) or self._blobs is None:
            return 0
        self._blobs.remove(layer.descriptor.digest)
        return layer.descriptor.size
