"""Where cache mounts travel through: said by --cache, or by what is pushed to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ci_plugins.mounts.store import ChunkStore
from ci_plugins.oci import Reference

if TYPE_CHECKING:
    from ci_plugins.storage.registry import RegistryClient


def open_chunks(cache: str, pushed: Reference | None, client_for: Callable[[str], RegistryClient]) -> ChunkStore | None:
    """The store beside a cache: of `registry://HOST/REPOSITORY` that repository, of `sqlite:PATH` the directory
    `PATH.mounts`; else, and for Redis, which is not made for this, the repository that is pushed to. None where there
    is none of these, or the cache is off. Raises StateError."""
    kind, _, rest = cache.partition(":")
    if cache == "off":
        return None
    if kind == "sqlite":
        from ci_plugins.mounts.directory_store import DirectoryChunks

        return DirectoryChunks(Path(f"{rest}.mounts"))
    host, repository = (pushed.registry, pushed.repository) if pushed else ("", "")
    if kind == "registry":
        host, _, repository = rest.removeprefix("//").partition("/")
    if not repository:
        return None
    from ci_plugins.mounts.registry_store import RegistryChunks

    return RegistryChunks(client_for(host), repository)
