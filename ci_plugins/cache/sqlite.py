"""The local index: one SQLite file, shared by all builds that use the same state directory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ci_plugins.cache.record import KEY_VERSION, CacheRecord
from ci_plugins.cache.store import CacheDamaged, CacheUnavailable
from ci_plugins.oci import Digest

_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
#: SQLite's smallest default limit of bound variables is 999.
_VARIABLES = 900


class SqliteStore:
    """`CacheStore` in a file. Thread safe; other processes may use the file at the same time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=10, check_same_thread=False, isolation_level=None)
            # WAL: readers never wait for a writer. NORMAL: a power cut may lose the newest records, never the file.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS records ("
                " key TEXT NOT NULL, version INTEGER NOT NULL, record TEXT NOT NULL,"
                " PRIMARY KEY (key, version)) WITHOUT ROWID"
            )

    def lookup(self, keys: Iterable[Digest]) -> Mapping[Digest, CacheRecord]:
        wanted = list(keys)
        found: dict[Digest, CacheRecord] = {}
        with self._lock, self._errors():
            for start in range(0, len(wanted), _VARIABLES):
                part = wanted[start : start + _VARIABLES]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, record FROM records WHERE version = ? AND key IN ({marks})"
                for key, text in self._database.execute(query, (KEY_VERSION, *part)):
                    try:
                        found[key] = CacheRecord.from_json(key, text)
                    except ValueError:
                        continue  # damaged: as good as absent, and replaced by the next put
        return found

    def put(self, records: Iterable[CacheRecord]) -> None:
        rows = [(record.key, KEY_VERSION, record.to_json()) for record in records]
        with self._lock, self._errors():
            self._database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            kind = CacheDamaged if code in _DAMAGED else CacheUnavailable
            raise kind(f"the index {self._path} cannot be used: {error}") from error


def remove_index(path: Path) -> None:
    """Remove the file of a damaged index, so that the next `SqliteStore` begins a new one. Raises CacheUnavailable."""
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise CacheUnavailable(f"the damaged index {path} cannot be removed: {error.strerror}") from error
