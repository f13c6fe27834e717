"""`ci-plugins cache index`: from options to what was read, with everything it needs opened and closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

from ci_plugins.cache.open import open_store
from ci_plugins.cache.registry_documents import kind_of
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheStore, CacheUnavailable
from ci_plugins.errors import StateError
from ci_plugins.foreign.index import Indexed, Indexer
from ci_plugins.oci import Reference
from ci_plugins.options import IndexOptions
from ci_plugins.storage.registry import RegistryClient, RegistryListing, RegistryOrigin, Retry

#: Manifests and configs are small: the time goes into waiting.
_REQUESTS = 16


def index_images(options: IndexOptions, warn: Callable[[str], None]) -> Iterator[Indexed]:
    """One repository after the other, many requests at a time. Raises CiPluginsError."""

    def client_of(registry: str) -> RegistryClient:
        client = RegistryClient(registry, insecure=frozenset(options.insecure_registries), on_retry=told)
        stack.callback(client.close)
        return client

    def told(retry: Retry) -> None:
        if retry.delay:
            warn(f"{retry.error}; trying again in {retry.delay:.1f} s")

    try:
        with ExitStack() as stack:
            client_for = cache(client_of)
            store = _open(options, client_for)
            stack.callback(store.close)
            origin = RegistryOrigin(client_for)
            pool = stack.enter_context(ThreadPoolExecutor(_REQUESTS, "index"))
            indexer = Indexer(origin, origin.resolve, store, pool)
            for place in _repositories(options, client_for):
                tags = RegistryListing(client_for(place.registry)).tags(place.repository)
                # a cache's own documents are no images
                tags = [tag for tag in tags if kind_of(tag) is None]
                yield indexer.index(f"{place.registry}/{place.repository}", tags)
    except CacheUnavailable as error:  # closing too: some stores finish their work only there
        remedy = None if _is_local(options) else "Check what --cache names, and that you may write there."
        raise StateError(f"the index cannot be written: {error}", remedy=remedy) from error


def _open(options: IndexOptions, client_for: Callable[[str], RegistryClient]) -> CacheStore:
    if _is_local(options):
        return SqliteStore(options.state / "index.sqlite")
    return open_store(options.cache, client_for)


def _is_local(options: IndexOptions) -> bool:
    return options.cache in ("auto", "off")


def _repositories(options: IndexOptions, client_for: Callable[[str], RegistryClient]) -> list[Reference]:
    if not options.whole_registry:
        return [Reference.parse(name) for name in options.repositories]
    return [
        Reference.parse(f"{registry}/{name}")
        for registry in options.repositories
        for name in RegistryListing(client_for(registry)).repositories()
    ]
