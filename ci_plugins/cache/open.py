"""Stores by their URL. What a store needs is imported when it is opened: most builds need one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.sqlite import SqliteStore, remove_index
from ci_plugins.cache.store import CacheDamaged, CacheStore, CacheUnavailable
from ci_plugins.errors import UsageError
from ci_plugins.oci import Reference

if TYPE_CHECKING:
    from ci_plugins.storage.registry import RegistryClient

KNOWN = "sqlite:PATH, redis://HOST[:PORT]/DB, rediss://…, registry://HOST/REPOSITORY, memory:"


def open_store(url: str, client_for: Callable[[str], RegistryClient]) -> CacheStore:
    """A cache by its URL; nothing is connected to yet, but a file is opened.

    Raises UsageError for what is no such URL, CacheUnavailable for a file that cannot be used.
    """
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme == "sqlite" and rest:
        return SqliteStore(Path(rest))
    if scheme in ("redis", "rediss"):
        try:
            from ci_plugins.cache.redis import RedisStore
        except ModuleNotFoundError as error:
            remedy = 'Install it: pip install "ci-plugins[redis]".'
            raise UsageError(f"a cache in Redis needs the Python package {error.name}", remedy=remedy) from error
        return RedisStore(url)
    if scheme == "registry":
        place = _repository(rest)
        from ci_plugins.cache.registry import RegistryStore

        return RegistryStore(client_for(place.registry), place.repository, client_for)
    if scheme == "memory" and not rest:
        from ci_plugins.cache.memory import MemoryStore

        return MemoryStore()
    # Not the URL itself: one that is misspelled may hold a password.
    raise UsageError(f"not the URL of a cache: {f'{scheme}:…' if scheme else url!r}", remedy=f"Known are {KNOWN}.")


def open_chain(index: Path, shared: CacheStore | None, warn: Callable[[str], None]) -> ChainedStore:
    """The local index, begun anew if it is damaged, and a shared store. Never raises CacheUnavailable."""

    def renew() -> CacheStore:
        remove_index(index)
        return SqliteStore(index)

    try:
        return ChainedStore(_open_index(index, renew, warn), shared, warn, renew=renew)
    except CacheUnavailable as error:
        warn(f"{error}; no step of this build will be found again on this machine")
        return ChainedStore(None, shared, warn)


def _open_index(index: Path, renew: Callable[[], CacheStore], warn: Callable[[str], None]) -> CacheStore:
    try:
        return SqliteStore(index)
    except CacheDamaged as error:
        warn(f"{error}; a new one is begun")
        return renew()


def _repository(rest: str) -> Reference:
    """`//host/repository`: the host is always named, also one without a dot."""
    host, _, path = rest.removeprefix("//").partition("/")
    named = host if ":" in host or "." in host or host == "localhost" else f"{host}:443"
    try:
        place = Reference.parse(f"{named}/{path}")
    except ValueError as error:
        raise UsageError(f"registry:{rest}: {error}", remedy="Write registry://HOST/REPOSITORY.") from error
    if not rest.startswith("//") or not host or not path or place.tag != "latest" or path.endswith(":latest"):
        raise UsageError(f"registry:{rest} names no repository", remedy="Write registry://HOST/REPOSITORY, no tag.")
    return Reference(place.registry if named == host else host, place.repository)
