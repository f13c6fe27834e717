"""The local index: one SQLite file, shared by all builds that use the same state directory.

Tables of contents are files beside it, in the directory `<file>.toc`.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ci_plugins.cache.forest import Node, first_of_names, newest_first, to_prune, toc_digests
from ci_plugins.cache.record import KEY_VERSION, CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheDamaged, CacheUnavailable, Pruned
from ci_plugins.cache.toc_files import TocFiles
from ci_plugins.oci import Descriptor, Digest

#: The user_version of the file. A file of another one is not read.
SCHEMA_VERSION = 2

# `used` is the last use in seconds since the epoch, `layer` and `size` are the compressed layer's: what a prune asks.
_SCHEMA = """
CREATE TABLE records (
 key TEXT NOT NULL, scope TEXT NOT NULL, version INTEGER NOT NULL, parent TEXT NOT NULL, layer TEXT NOT NULL,
 size INTEGER NOT NULL, used REAL NOT NULL, record TEXT NOT NULL, PRIMARY KEY (key, scope));
CREATE INDEX children ON records (parent);
CREATE TABLE images (
 scope TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID;
"""
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
#: Seconds to wait for another process that has the file locked.
_PATIENCE = 10.0
#: SQLite's smallest default limit of bound variables is 999: keys and scopes of one query, but for the version.
_VARIABLES = 900


class SqliteStore:
    """`CacheStore` in a file. Thread safe; other processes may use the file at the same time.

    Raises CacheDamaged, from the constructor too, for a file that is no index or one of another version:
    `remove_index` makes room for a new one. `clock` tells seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._lock = threading.Lock()
        self._path, self._clock = path, clock
        self._tocs = TocFiles(path.with_name(path.name + ".toc"))
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise

    @property
    def name(self) -> str:
        return str(self._path)

    # -- for building -----------------------------------------------------------------------------------------------

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        found: dict[tuple[Digest, str], CacheRecord] = {}
        names = tuple(dict.fromkeys(scopes))
        with self._lock, self._errors():
            for some in _parts(names, _VARIABLES // 2):
                for part in _parts(tuple(dict.fromkeys(keys)), _VARIABLES - len(some)):
                    where = f"key IN ({_marks(part)}) AND scope IN ({_marks(some)})"
                    found.update({(item.key, item.scope): item for item in self._select(where, (*part, *some))})
        return {key: found[key, scope] for scope in reversed(names) for key in keys if (key, scope) in found}

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        now = self._clock()
        rows = []
        for record in records:
            node = Node.of(record, now)
            rows.append(
                (record.key, record.scope, KEY_VERSION, node.parent, node.layer, node.size, now, record.to_json())
            )
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            database.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?)",
                [(image.scope, image.name, image.to_json()) for image in images],
            )

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        now = self._clock()
        with self._transaction() as database:
            database.executemany(
                "UPDATE records SET used = ? WHERE key = ? AND scope = ?", [(now, key, scope) for key in keys]
            )

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Mapping[Digest, bytes]:
        with self._errors():
            return {item.digest: data for item, _ in wanted if (data := self._tocs.get(item)) is not None}

    def put_tocs(self, tocs: Mapping[Digest, bytes]) -> None:
        with self._errors():
            self._tocs.put(tocs)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # -- for looking at ---------------------------------------------------------------------------------------------

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        asked = set(scopes)
        with self._lock, self._errors():
            return newest_first(item for item in self._select("parent = ?", (key,)) if item.scope in asked)

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        found = []
        with self._lock, self._errors():
            for scope in dict.fromkeys(scopes):
                for name, text in self._database.execute("SELECT name, image FROM images WHERE scope = ?", (scope,)):
                    with suppress(ValueError):  # damaged: as good as absent
                        found.append(ImageRecord.from_json(name, text, scope))
        return first_of_names(found, scopes)

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        with self._lock, self._errors():
            return iter([item for scope in dict.fromkeys(scopes) for item in self._select("scope = ?", (scope,))])

    def scopes(self) -> tuple[str, ...]:
        with self._lock, self._errors():
            rows = self._database.execute("SELECT DISTINCT scope FROM records WHERE version = ?", (KEY_VERSION,))
            return tuple(sorted(scope for (scope,) in rows))

    # -- for forgetting ---------------------------------------------------------------------------------------------

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        with self._transaction() as database:
            _remove(database, {scope: set(keys)})

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        with self._transaction() as database:
            rows = database.execute("SELECT scope, key, parent, layer, size, used FROM records")
            gone, pruned = to_prune([Node(*row) for row in rows], older_than, max_size)
            keys: dict[str, set[str]] = {}
            for node in gone:
                keys.setdefault(node.scope, set()).add(node.key)
            _remove(database, keys)
            named = set[Digest]().union(*(toc_digests(record) for record in self._select("TRUE", ())))
        with self._errors():
            self._tocs.keep(named)
        return pruned

    # -- the file ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        # WAL: readers never wait for a writer. NORMAL: a power cut may lose the newest records, never the file.
        # OFF while there is nothing to lose: else making the file waits for the disk several times.
        known = self._version() == SCHEMA_VERSION
        self._database.execute(f"PRAGMA synchronous={'NORMAL' if known else 'OFF'}")
        if not known:
            self._use_wal()
            self._make()
            self._database.execute("PRAGMA synchronous=NORMAL")

    def _use_wal(self) -> None:
        """Waits for other processes that are making the file: for this statement, SQLite itself does not."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    def _make(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            # Again, now that nobody else can make the tables.
            version = self._version()
            empty = not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version != SCHEMA_VERSION and not empty:
                raise CacheDamaged(f"the index {self._path} was written by another version (its format is {version})")
            if empty:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        finally:
            self._database.execute("COMMIT")

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    def _select(self, where: str, values: Sequence[str]) -> Iterator[CacheRecord]:
        query = f"SELECT key, record, scope FROM records WHERE version = {KEY_VERSION} AND {where}"
        for key, text, scope in self._database.execute(query, values):
            with suppress(ValueError):  # damaged: as good as absent, and replaced by the next put
                yield CacheRecord.from_json(key, text, scope)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and one at a time over all processes."""
        with self._lock, self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                with suppress(sqlite3.Error):  # what went wrong first is what matters
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeError) as error:
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


def _remove(database: sqlite3.Connection, keys: Mapping[str, set[Any]]) -> None:
    """Records by scope, and the images that went through them."""
    for scope, some in keys.items():
        database.executemany("DELETE FROM records WHERE key = ? AND scope = ?", [(key, scope) for key in some])
        for name, text in database.execute("SELECT name, image FROM images WHERE scope = ?", (scope,)).fetchall():
            try:
                passed = not some.isdisjoint(ImageRecord.from_json(name, text, scope).keys)
            except ValueError:
                passed = True  # damaged: nobody will miss it
            if passed:
                database.execute("DELETE FROM images WHERE scope = ? AND name = ?", (scope, name))


def _parts(values: tuple[Any, ...], most: int) -> Iterator[tuple[Any, ...]]:
    return (values[start : start + most] for start in range(0, len(values), most))


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
