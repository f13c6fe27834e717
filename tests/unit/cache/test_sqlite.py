"""The SQLite index: what goes in comes out, and what cannot be read counts as absent."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Thread

import pytest

from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheUnavailable
from ci_plugins.oci import Descriptor, Digest, sha256_digest


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


def test_damaged_records_and_other_versions_are_absent(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    store = SqliteStore(path)
    store.put([record(1), record(2), record(3)])
    with sqlite3.connect(path) as other:
        other.execute("UPDATE records SET record = '{' WHERE key = ?", (record(1).key,))
        other.execute("UPDATE records SET version = version + 1 WHERE key = ?", (record(2).key,))
    assert store.lookup([record(number).key for number in (1, 2, 3)], ["default"]) == {record(3).key: record(3)}


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(CacheUnavailable, match=r"index\.sqlite"):
        SqliteStore(tmp_path / "index.sqlite")


def test_writers_in_many_threads_and_two_connections(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "index.sqlite") for _ in range(2)]

    def write(offset: int) -> None:
        for number in range(offset, offset + 40):
            stores[offset % 2].put([record(number)])

    threads = [Thread(target=write, args=(offset,)) for offset in (0, 41, 100, 141)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys: list[Digest] = [record(number).key for offset in (0, 41, 100, 141) for number in range(offset, offset + 40)]
    assert stores[0].lookup(keys, ["default"]).keys() == set(keys)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parent": 3}', '{"parent": null, "instruction": "x"}'])
def test_what_is_not_a_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a cache record|Expecting value"):
        CacheRecord.from_json(sha256_digest(b"k"), text)
