from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from ci_plugins.errors import CiPluginsError, ContextChanged, DiskFull, StateError
from ci_plugins.events import Event, Progress, Recorder
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import CHUNK, Compression, Kind, decompress
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.extract import read_layer
from ci_plugins.layer.stream import Layer, contents_of, stream_layer
from ci_plugins.oci import hex_of
from ci_plugins.storage.local import LocalStore

KINDS: list[Kind] = ["gzip", "zstd", "none"]
RANDOM = os.urandom(64 << 10)


def own(path: str, kind: EntryType, size: int = 0, **fields: str) -> Entry:
    """An entry that unpacks without rights."""
    return Entry(path, kind, 0o755, os.geteuid(), os.getegid(), size, 10**9, **fields)


def items(count: int = 40, size: int = 300_000) -> list[Item]:
    """About 12 MB: several chunks."""
    data = (RANDOM + bytes(RANDOM) * 4)[:size]
    directory = [Item(own("etc", EntryType.DIRECTORY)), Item(own("etc/passwd", EntryType.FILE, 9), b"root:x:0:")]
    return directory + [Item(own(f"etc/{i:04}", EntryType.FILE, len(data)), data) for i in range(count)]


def stream(store: LocalStore, content: Iterable[Item], kind: Kind = "gzip", to: Path | None = None) -> Layer:
    with Recorder().span("layer", "test") as span, store.spool() as spool:
        return stream_layer(
            contents_of(content),
            compression=Compression(kind),
            spool=spool,
            span=span,
            budget=MemoryBudget(),
            extract_to=to,
        )


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.mark.parametrize("kind", KINDS)
def test_digests_sizes_and_contents(store: LocalStore, kind: Kind) -> None:
    layer = stream(store, items(), kind)
    blob = store.read(layer.descriptor)
    assert hashlib.sha256(blob).hexdigest() == hex_of(layer.descriptor.digest)
    assert len(blob) == layer.descriptor.size
    plain = b"".join(decompress([blob], kind))
    assert hashlib.sha256(plain).hexdigest() == hex_of(layer.diff_id)
    assert len(plain) == layer.size > 3 * CHUNK
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert tar.getnames() == [item.entry.path for item in items()]
    assert [entry.path for entry in layer.toc.entries] == sorted(item.entry.path for item in items())
    assert layer.toc.kept == {"etc/passwd": b"root:x:0:"}
    assert layer.toc == contents_of(items()).toc


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_cores_does_not_show(store: LocalStore, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for cores in (1, 3, 8):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        found.add(stream(store, items(), kind).descriptor.digest)
    assert len(found) == 1


def test_a_reader_gets_the_same_from_disk_and_stream(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    layer = stream(store, items(), "zstd", tmp_path / "snapshot")
    with Recorder().span("extract", "test") as span:
        read = read_layer(store.source(layer.descriptor).blocks(), layer.descriptor.media_type, span=span)
    assert (read.toc, read.diff_id, read.size) == (layer.toc, layer.diff_id, layer.size)
    for item in items():
        if item.entry.size:
            assert (tmp_path / "snapshot" / item.entry.path).read_bytes() == item.content


def test_no_items_are_a_layer(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    layer = stream(store, [], to=tmp_path / "snapshot")
    assert gzip.decompress(store.read(layer.descriptor)) == bytes(1024)
    assert layer.toc.entries == ()


def test_times_in_the_contents_are_those_of_the_archive(store: LocalStore) -> None:
    entry = Entry("a", EntryType.FILE, mtime_ns=5_999_999_999)
    layer = stream(store, [Item(entry)])
    assert [entry.mtime_ns for entry in layer.toc.entries] == [5_000_000_000]


def test_the_span_knows_everything(store: LocalStore) -> None:
    events: list[Event] = []
    recorder = Recorder([events.append])
    with recorder.span("layer", "test") as span, store.spool() as spool:
        contents = contents_of(items())
        stream_layer(contents, compression=Compression("gzip"), spool=spool, span=span, budget=MemoryBudget())
    (span_,) = recorder.spans()
    expected = {"bytes", "compressed_bytes", "entries", "media_type", "digest", "tar_seconds", "compress_seconds"}
    assert set(span_.attributes) == expected
    assert span_.attributes["entries"] == 42
    assert len([event for event in events if isinstance(event, Progress)]) > 3


def after(count: int, error: BaseException) -> list[Item]:
    """Items of which one cannot be read."""

    def fails() -> BinaryIO:
        raise error

    return [*items()[:count], Item(own("etc/zzz", EntryType.FILE, 5), fails), *items()[count:]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("snapshot", [False, True])
def test_a_failing_source_stops_all(store: LocalStore, tmp_path: Path, kind: Kind, count: int, snapshot: bool) -> None:
    (tmp_path / "snapshot").mkdir()
    budget, threads = MemoryBudget(), threading.active_count()
    with Recorder().span("layer", "test") as span, store.spool() as spool:
        with pytest.raises(ContextChanged, match="gone"):
            stream_layer(
                contents_of(after(count, ContextChanged("gone"))),
                compression=Compression(kind),
                spool=spool,
                span=span,
                budget=budget,
                extract_to=tmp_path / "snapshot" if snapshot else None,
            )
        with pytest.raises(ContextChanged, match="gone"):
            list(spool.blocks())
    assert budget.used == 0
    assert threading.active_count() == threads
    assert not list((store.root / "blobs" / "sha256").iterdir())


def test_a_disk_that_is_full_stops_all(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, threads = MemoryBudget(), threading.active_count()
    with Recorder().span("layer", "test") as span, store.spool() as spool:

        def write(data: bytes) -> None:
            raise DiskFull("no space left")

        monkeypatch.setattr(spool, "write", write)
        with pytest.raises(DiskFull):
            stream_layer(
                contents_of(items(200)), compression=Compression("zstd"), spool=spool, span=span, budget=budget
            )
    assert budget.used == 0
    assert threading.active_count() == threads


def test_an_unpacking_that_fails_stops_all(store: LocalStore, tmp_path: Path) -> None:
    root = tmp_path / "snapshot"
    root.mkdir()
    (root / "etc").write_bytes(b"in the way")
    threads = threading.active_count()
    with pytest.raises(CiPluginsError) as caught:
        stream(store, items(200), to=root)
    assert not isinstance(caught.value, StateError) or "etc" in str(caught.value)
    assert threading.active_count() == threads


def test_many_streams_share_a_small_budget(tmp_path: Path) -> None:
    """More streams than the budget has chunks: all end, and never is more held than allowed."""
    budget = MemoryBudget(3 * CHUNK)
    most = 0
    found: list[Layer | BaseException] = []

    def watched(data: bytes) -> BinaryIO:
        nonlocal most
        most = max(most, budget.used)
        return io.BytesIO(data)

    contents = contents_of(
        Item(item.entry, partial(watched, item.content)) if isinstance(item.content, bytes) else item
        for item in items()
        if item.entry.path != "etc/passwd"
    )

    def one(number: int) -> None:
        store = LocalStore(tmp_path / f"store{number}")
        try:
            with Recorder().span("layer", "test") as span, store.spool() as spool:
                how = Compression("gzip" if number % 2 else "none")
                found.append(stream_layer(contents, compression=how, spool=spool, span=span, budget=budget))
        except BaseException as error:  # noqa: BLE001
            found.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8, "a stream waits for ever"
    assert {type(layer) for layer in found} == {Layer}
    assert 0 < most <= budget.size
    assert budget.used == 0
