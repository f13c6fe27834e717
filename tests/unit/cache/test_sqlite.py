"""The SQLite index: what goes in comes out, and what cannot be read counts as absent."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.cache.sqlite import SCHEMA_VERSION, SqliteStore, remove_index
from ci_plugins.cache.store import CacheDamaged, CacheUnavailable
from ci_plugins.oci import Descriptor, hex_of, sha256_digest

_INFINITE = (
    '{"parent": null, "instruction": "x", "created": "", "seconds": 1, "layer": {"size": 1e999, "diff_id": "sha256:'
    + "0" * 64
    + '", "descriptor": {"digest": "sha256:'
    + "0" * 64
    + '", "size": 1}}}'
)


def record(number: int, *, layer: bool = True) -> CacheRecord:
    written = RecordedLayer(
        Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", sha256_digest(b"%d.gz" % number), 10 + number),
        sha256_digest(b"%d.tar" % number),
        100 + number,
    )
    return CacheRecord(
        key=sha256_digest(b"%d" % number),
        parent=sha256_digest(b"%d" % (number - 1)) if number else None,
        instruction=f"RUN make {number}",
        layer=written if layer else None,
        created="2026-01-02T03:04:05.000006Z",
        seconds=1.25,
    )


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "index.sqlite")
    records = [record(0), record(1), record(2, layer=False)]
    store.put(records)
    assert store.lookup([item.key for item in records], ["default"]) == {item.key: item for item in records}
    store.close()
    reopened = SqliteStore(tmp_path / "index.sqlite")
    assert reopened.lookup([records[1].key, sha256_digest(b"unknown")], ["default"]) == {records[1].key: records[1]}


def test_a_lookup_takes_more_keys_than_a_query_takes_variables(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "index.sqlite")
    records = [record(number) for number in range(2500)]
    store.put(records)
    assert store.lookup([item.key for item in records], ["default"]).keys() == {item.key for item in records}


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(CacheUnavailable, match=r"index\.sqlite"):
        SqliteStore(tmp_path / "index.sqlite")


def test_a_file_of_another_version_is_damaged_for_us(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    store = SqliteStore(path)
    store.put([record(1)])
    store.close()
    for version in (SCHEMA_VERSION + 1, 0):
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(CacheDamaged, match="another version"):
            SqliteStore(path)
    remove_index(path)
    with closing(SqliteStore(path)) as store:
        assert store.lookup([record(1).key], ["default"]) == {}


def test_an_index_that_many_open_for_the_first_time(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: SqliteStore(path), range(8)))
    for number, store in enumerate(stores):
        store.put([record(number)])
    assert len(stores[0].lookup([record(number).key for number in range(8)], ["default"])) == 8
    for store in stores:
        store.close()


def test_an_index_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """SQLite's own patience does not cover the change to WAL."""
    path = tmp_path / "index.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("PRAGMA user_version = 0")
    threading.Timer(0.2, other.execute, ["ROLLBACK"]).start()
    with closing(other), closing(SqliteStore(path)) as store:
        store.put([record(1)])
        assert store.lookup([record(1).key], ["default"])


def test_a_put_is_all_or_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "index.sqlite")
    unwritable = replace(record(2), scope="\udcff")
    with pytest.raises(CacheUnavailable, match=r"index\.sqlite"):
        store.put([record(1), unwritable])
    assert store.lookup([record(1).key], ["default"]) == {}
    store.put([record(1)])
    assert store.lookup([record(1).key], ["default"]) == {record(1).key: record(1)}


def test_a_store_that_is_closed_is_unavailable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "index.sqlite")
    store.close()
    store.close()
    with pytest.raises(CacheUnavailable):
        store.lookup([record(1).key], ["default"])


def test_prune_removes_the_tocs_that_no_record_names(tmp_path: Path) -> None:
    """But not the ones that were stored just now: their records are about to come."""
    store = SqliteStore(tmp_path / "index.sqlite")
    named, old, new = b"named", b"old", b"new"
    store.put_tocs({sha256_digest(data): data for data in (named, old, new)})
    layer = record(1).layer
    assert layer
    toc = Descriptor("application/x", sha256_digest(named), len(named))
    store.put([replace(record(1), layer=replace(layer, toc=toc))])
    for data in (named, old):
        os.utime(tmp_path / "index.sqlite.toc" / hex_of(sha256_digest(data)), (0, 0))
    store.prune(older_than=datetime(2000, 1, 1, tzinfo=UTC))
    left = {path.name for path in (tmp_path / "index.sqlite.toc").iterdir()}
    assert left == {hex_of(sha256_digest(data)) for data in (named, new)}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, _INFINITE, '{"parent": 3}', '{"parent": null, "instruction": "x"}']
)
def test_what_is_not_a_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a cache record|Expecting value"):
        CacheRecord.from_json(sha256_digest(b"k"), text)
