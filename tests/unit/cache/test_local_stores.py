"""The suite of all stores, on those that need nothing but memory and a directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.oci import Digest, hex_of
from tests.cache_suite import CacheSuite, Clock


class SqlitePlace:
    many = 5_000
    copies = 1

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, Clock()

    def open(self) -> SqliteStore:
        return SqliteStore(self.path, self.clock)

    def hold(self, blobs: Sequence[bytes]) -> None:
        """It records layers without having them."""

    def damage(self, record: CacheRecord) -> None:
        self._update("record = substr(record, 1, 40)", record)

    def age(self, record: CacheRecord) -> None:
        self._update("version = version - 1", record)

    def _update(self, what: str, record: CacheRecord) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            changed = database.execute(
                f"UPDATE records SET {what} WHERE key = ? AND scope = ?", (record.key, record.scope)
            )
            assert changed.rowcount == 1

    def damage_toc(self, digest: Digest, data: bytes) -> None:
        file = self.path.with_name(self.path.name + ".toc") / hex_of(digest)
        assert file.exists()
        file.write_bytes(data)


class MemoryPlace:
    """One store, however often it is opened: nothing of it can be damaged from outside but by reaching into it."""

    many = 5_000
    copies = 1

    def __init__(self) -> None:
        self.clock = Clock()
        self._store = MemoryStore(self.clock)

    def open(self) -> MemoryStore:
        return self._store

    def hold(self, blobs: Sequence[bytes]) -> None:
        """It records layers without having them."""

    def damage(self, record: CacheRecord) -> None:
        self._store.remove([record.key], record.scope)

    age = damage

    def damage_toc(self, digest: Digest, data: bytes) -> None:
        self._store.put_tocs({digest: data})


class TestSqlite(CacheSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> SqlitePlace:
        return SqlitePlace(tmp_path / "some where" / "index.sqlite")


class TestMemory(CacheSuite):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        return MemoryPlace()
