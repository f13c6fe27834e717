"""`ci-plugins cache`: what a cache holds, why, and what of it is worth keeping."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from ci_plugins.cache.find import Chain, find_chain
from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.open import open_store
from ci_plugins.cache.prune_layers import Needed, prune_blobs, prune_layers
from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.cache.removal import Freed
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheStore, CacheUnavailable, Pruned
from ci_plugins.cache.tree import ScopeTree, forest
from ci_plugins.cache.verify import Here, Verified
from ci_plugins.cache.verify import verify as verify_store
from ci_plugins.errors import CiPluginsError, EngineUnavailable, StateError
from ci_plugins.mounts.manager import DEFAULT_LIMITS
from ci_plugins.mounts.open import open_chunks
from ci_plugins.mounts.slots import remove_unused
from ci_plugins.oci import Descriptor, Digest, Reference
from ci_plugins.options.settings import CacheOptions
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.registry import RegistryClient, RegistryListing

#: Seconds without use after which goes what no record stands for, where no --older-than says it.
_UNCLAIMED = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Found:
    """A chain, and which of its layers' blobs this machine has."""

    store: str
    chain: Chain
    here: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a prune took from the index, and what could be removed then: from this machine, or from the place that was
    named."""

    store: str
    pruned: Pruned
    freed: Freed


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
    """What no record stands for any more goes too; builds may be running meanwhile."""
    limit = None if options.older_than is None else time.time() - options.older_than
    with _opened(options) as (store, client):
        before = _layers(store)
        files = options.state / "index.sqlite.toc" if _is_local(options) else None
        tocs = _size(files)
        pruned = store.prune(
            older_than=None if limit is None else datetime.fromtimestamp(limit, UTC), max_size=options.max_size
        )
        if not _is_local(options):
            return Forgotten(store.name, pruned, _prune_saved_mounts(options, limit, client))
        freed = Freed(tocs - _size(files))
        if options.state.is_dir():
            freed += _prune_state(options.state, list(before.values()), _records(store), limit)
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


def _records(store: CacheStore) -> list[CacheRecord]:
    return [record for scope in store.scopes() for record in store.records([scope])]


def _layers(store: CacheStore) -> dict[Digest, RecordedLayer]:
    """Those of all steps, by the digests of their blobs."""
    return {record.layer.descriptor.digest: record.layer for record in _records(store) if record.layer}


def _prune_saved_mounts(options: CacheOptions, limit: float | None, client: Callable[[str], RegistryClient]) -> Freed:
    """In the place beside a cache, if mounts were ever saved there."""
    kind, _, path = options.cache.partition(":")
    if kind == "sqlite" and not Path(f"{path}.mounts").is_dir():
        return Freed()
    try:
        chunks = open_chunks(options.cache, None, client)
        return chunks.prune(limit or 0.0) if chunks else Freed()
    except CiPluginsError as error:
        return Freed(problems=(f"saved cache mounts: {error.message}",))


def _has_blob(client: Callable[[str], RegistryClient], place: str, blob: Descriptor) -> bool:
    reference = Reference.parse(place)
    return RegistryListing(client(reference.registry)).has_blob(reference.repository, blob)


# -- this machine ------------------------------------------------------------------------------------------------------


def _never(layer: RecordedLayer) -> bool:
    return False


def _prune_state(
    state: Path, before: Sequence[RecordedLayer], records: Sequence[CacheRecord], limit: float | None
) -> Freed:
    """`before` are the layers of steps there were, `records` those there are."""
    since = time.time() - _UNCLAIMED if limit is None else limit
    kept = [layer for record in records for layer in (*record.base, record.layer) if layer]
    spools = _size(state / "spool")
    LocalStore(state)  # what builds that were killed have left is removed when a state is opened
    freed = Freed(spools - _size(state / "spool")) + LayerCache(state).abandoned
    if any((state / "scratch").glob("run-*")):
        from ci_plugins.engine.native import NativeEngine

        with suppress(EngineUnavailable):
            NativeEngine(state / "scratch")
    layers = {layer.diff_id for layer in kept}
    pruned, left = prune_layers(state, Needed(layers, {layer.diff_id for layer in before} - layers, since))
    # A build that uses the snapshot of a forgotten step may be about to send its blob.
    blobs = {layer.descriptor.digest for layer in (*kept, *before) if layer.diff_id in layers | left}
    gone = {layer.descriptor.digest for layer in before} - blobs
    freed += pruned + prune_blobs(state / "blobs" / "sha256", Needed(blobs, gone, since))
    return freed + remove_unused(state / "mounts", time.time() - DEFAULT_LIMITS.age if limit is None else limit)


def _size(directory: Path | None) -> int:
    """Bytes of the files of a directory on disk."""
    total = 0
    for path in directory.iterdir() if directory and directory.is_dir() else ():
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


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
