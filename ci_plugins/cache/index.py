"""The index of a build: it may fail, the build may not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.sqlite import SqliteStore, remove_index
from ci_plugins.cache.store import CacheDamaged, CacheUnavailable
from ci_plugins.oci import Digest


class LocalIndex:
    """The records of a state directory. What fails is told to `warn`, and is as if there were no records; a damaged
    file is replaced by a new one."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn = path, warn
        self._store = self._open()

    def lookup(self, keys: Iterable[Digest]) -> Mapping[Digest, CacheRecord]:
        try:
            return self._store.lookup(keys) if self._store else {}
        except CacheDamaged as error:
            self.close()
            self._store = self._begin_anew(error)
        except CacheUnavailable as error:
            self._warn(f"{error}; every step is run")
        return {}

    def put(self, record: CacheRecord) -> None:
        try:
            if self._store:
                self._store.put([record])
        except CacheUnavailable as error:
            self._warn(f"{error}; the step {record.instruction!r} will be run again next time")

    def close(self) -> None:
        if self._store:
            self._store.close()

    def _open(self) -> SqliteStore | None:
        try:
            return SqliteStore(self._path)
        except CacheDamaged as error:
            return self._begin_anew(error)
        except CacheUnavailable as error:
            self._warn(f"{error}; every step is run")
            return None

    def _begin_anew(self, error: CacheDamaged) -> SqliteStore | None:
        self._warn(f"{error}; a new one is begun, and every step is run")
        try:
            remove_index(self._path)
            return SqliteStore(self._path)
        except CacheUnavailable as again:
            self._warn(f"{again}; no step will be found again")
            return None
