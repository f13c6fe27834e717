from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.errors import ContextChanged, ContextError
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.extract import unpack_tar
from ci_plugins.layer.tar import BLOCK, write_tar
from ci_plugins.layer.tar_read import TarReader
from ci_plugins.layer.toc import sorted_entries

SECOND = 1_000_000_000
NAMES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.text("ab", min_size=90, max_size=120).map(str.encode),
    st.text(min_size=1, max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
).filter(lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..") and name[:4] != b".wh.")
TARGETS = st.binary(min_size=1, max_size=150).filter(lambda name: b"\0" not in name)
XATTRS = st.dictionaries(
    st.sampled_from(["security.capability", "user.plain", "user.\udcff", "trusted.x"]),
    st.binary(max_size=40),
    max_size=2,
)


@st.composite
def trees(draw: st.DrawFn) -> list[Item]:
    """Items of a made-up layer: parents first, every kind, any name."""
    folders, items, paths = [""], [], {""}
    files: list[str] = []
    for _ in range(draw(st.integers(0, 12))):
        name = draw(NAMES).decode("utf-8", "surrogateescape")
        folder = draw(st.sampled_from(folders))
        path = f"{folder}/{name}" if folder else name
        if path in paths:
            continue
        paths.add(path)
        kind = draw(st.sampled_from([kind for kind in EntryType if kind is not EntryType.OPAQUE]))
        if kind is EntryType.HARDLINK and not files:
            kind = EntryType.FILE
        if kind is EntryType.WHITEOUT:
            items.append(Item(Entry(path, kind)))
            continue
        data = draw(st.binary(max_size=1500)) if kind is EntryType.FILE else b""
        link = ""
        if kind is EntryType.SYMLINK:
            link = draw(TARGETS).decode("utf-8", "surrogateescape")
        elif kind is EntryType.HARDLINK:
            link = draw(st.sampled_from(files))
        device = (0, 0)
        if kind in (EntryType.CHARACTER, EntryType.BLOCK):
            device = draw(st.tuples(st.integers(1, 4095), st.integers(0, 2**20 - 1)))
        entry = Entry(
            path,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(st.sampled_from([0, 1000, 0o7777777, 0o10000000, 2**32 - 2])),
            draw(st.sampled_from([0, 0o7777777, 0o10000000])),
            len(data),
            draw(st.sampled_from([0, 1_700_000_000, 0o77777777777, -5, 2**33])) * SECOND,
            link,
            device,
            draw(XATTRS),
        )
        items.append(Item(entry, data if data else None))
        if kind is EntryType.DIRECTORY:
            folders.append(path)
            if draw(st.booleans()):
                items.append(Item(Entry(path, EntryType.OPAQUE)))
        elif kind is EntryType.FILE:
            files.append(path)
    return items


def written(items: Iterable[Item]) -> bytes:
    return b"".join(write_tar(items))


@given(trees())
def test_what_is_written_is_read_again(items: list[Item]) -> None:
    whole = written(items)
    toc = unpack_tar([whole], None)
    entries = [item.entry for item in items if item.entry.type is not EntryType.OPAQUE]
    opaque = [item.entry.path for item in items if item.entry.type is EntryType.OPAQUE]
    assert toc.entries == sorted_entries(entries, opaque)
    reader = TarReader([whole])
    contents = [b"".join(reader.content()) for entry in reader if entry.size]
    assert contents == [item.content for item in items if item.content]


@given(trees())
def test_pythons_tarfile_reads_the_same(items: list[Item]) -> None:
    def name_of(entry: Entry) -> str:
        folder, slash, name = entry.path.rpartition("/")
        if entry.type is EntryType.OPAQUE:
            return entry.path + "/.wh..wh..opq"
        return f"{folder}{slash}.wh.{name}" if entry.type is EntryType.WHITEOUT else entry.path

    with tarfile.open(fileobj=io.BytesIO(written(items)), errors="surrogateescape") as tar:
        members = tar.getmembers()
        assert [info.name for info in members] == [name_of(item.entry) for item in items]
        for info, item in zip(members, items, strict=True):
            entry = item.entry
            assert (info.mode, info.uid, info.gid, info.size) == (entry.mode, entry.uid, entry.gid, entry.size)
            assert info.mtime == entry.mtime_ns // SECOND
            if entry.type in (EntryType.SYMLINK, EntryType.HARDLINK):
                assert info.linkname == entry.link
            if entry.type in (EntryType.CHARACTER, EntryType.BLOCK):
                assert (info.devmajor, info.devminor) == entry.device
            stored = tar.extractfile(info).read() if info.isreg() and entry.size else b""  # type: ignore[union-attr]
            assert stored == (item.content or b"")


def test_names_that_fit_have_no_pax_header() -> None:
    fitting = ["short", "d/" * 70 + "n" * 100, "p" * 155 + "/" + "n" * 100]
    for path in fitting:
        assert len(written([Item(Entry(path, EntryType.FILE))])) == 512 + 1024, path
    for path in ("n" * 101, "p" * 156 + "/n", "ä"):
        assert len(written([Item(Entry(path, EntryType.FILE))])) == 512 * 3 + 1024, path


def test_a_directory_name_ends_with_a_slash_within_the_hundred() -> None:
    for length in (98, 99, 100, 101, 255, 256, 257):
        items = [Item(Entry("d/" + "x" * (length - 2), EntryType.DIRECTORY))]
        with tarfile.open(fileobj=io.BytesIO(written(items))) as tar:
            assert [(info.name, info.type) for info in tar] == [(items[0].entry.path, tarfile.DIRTYPE)]


def test_blocks_are_near_a_mebibyte(tmp_path: Path) -> None:
    small = [Item(Entry(f"small{i}", EntryType.FILE, size=700), b"s" * 700) for i in range(3000)]
    (tmp_path / "large").write_bytes(os.urandom(5 << 20))
    large = Item(Entry("large", EntryType.FILE, size=5 << 20), tmp_path / "large")
    sizes = [len(block) for block in write_tar([*small, large, *small])]
    assert all(BLOCK <= size <= 2 * BLOCK + 2048 for size in sizes[:-2])
    assert sizes[-1] == 1024


@pytest.mark.parametrize("size", [1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_every_source_of_content(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    entry = Entry("file", EntryType.FILE, 0o644, size=size)
    sources: list[Any] = [data, tmp_path / "file", str(tmp_path / "file"), lambda: io.BytesIO(data)]
    archives = {written([Item(entry, source)]) for source in sources}
    assert len(archives) == 1
    assert archives.pop()[512 : 512 + size] == data


@pytest.mark.parametrize("size", [10, BLOCK + 10, 2 * BLOCK])
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_file_of_another_size_is_noticed(tmp_path: Path, size: int, difference: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (size + difference))
    entry = Entry("file", EntryType.FILE, size=size)
    for source in (path, path.read_bytes(), lambda: path.open("rb")):
        with pytest.raises(ContextChanged, match="file changed"):
            written([Item(entry, source)])


def test_a_file_that_became_something_else_is_noticed(tmp_path: Path) -> None:
    entry = Entry("file", EntryType.FILE, size=3)
    (tmp_path / "target").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "link", "directory", "fifo", "target/below"):
        with pytest.raises(ContextChanged):
            written([Item(entry, tmp_path / name)])


def test_a_sparse_file_is_its_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    size = (3 << 20) + 3
    reader = TarReader([written([Item(Entry("sparse", EntryType.FILE, size=size), path)])])
    assert [b"".join(reader.content()) for _ in reader] == [bytes(3 << 20) + b"end"]


def test_names_reserved_for_whiteouts_are_refused() -> None:
    for path in (".wh.x", "a/.wh..wh..opq", ".wh.d/file"):
        with pytest.raises(ContextError, match="deleted file"):
            written([Item(Entry(path, EntryType.FILE))])
    written([Item(Entry("a.wh.b", EntryType.FILE))])
