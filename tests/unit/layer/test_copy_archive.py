"""ADD of local archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ci_plugins.context import Context
from ci_plugins.errors import BuildError, ContextError
from ci_plugins.layer.copy import CopyRequest, copy_items
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree

DIR, REG, SYM, LNK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def pack(*members: tuple[str, bytes, str], owner: int = 1000) -> bytes:
    """A tar of (name, type, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid, info.mtime = kind, owner, owner, 77
            info.mode = 0o750 if kind == DIR else 0o4640
            if kind == REG:
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                archive.addfile(info)
    return out.getvalue()


def add(root: Path, data: bytes, *entries: Entry, to: str = "/srv", owner: tuple[int, int] | None = None) -> list[Item]:
    (root / "a.bin").write_bytes(data)
    request = CopyRequest(("a.bin",), to, unpack_archives=True, owner=owner, now_ns=5, chmod="777")
    return copy_items(request, Context.open(root), LayerTree((Toc(entries),)))


def read(item: Item) -> bytes:
    assert callable(item.content)
    with item.content() as stream:
        return stream.read()


def show(items: list[Item]) -> list[str]:
    return [f"{item.entry.path} {item.entry.type.value} {item.entry.link}".rstrip() for item in items]


def two(compress: Callable[[bytes], bytes], data: bytes) -> bytes:
    return compress(data[:700]) + compress(data[700:])


SIMPLE = pack(("d/", DIR, ""), ("d/one", REG, "first"), ("./d/two", REG, "second"), ("l", SYM, "/d/one"))


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress, lambda d: two(gzip.compress, d)],
)
def test_archives_are_recognised_by_content(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    items = add(tmp_path, compress(SIMPLE))
    assert show(items) == ["srv d", "srv/d d", "srv/d/one f", "srv/d/two f", "srv/l l /d/one"]
    by_path = {item.entry.path: item for item in items}
    assert (read(by_path["srv/d/one"]), read(by_path["srv/d/two"])) == (b"first", b"second")
    assert read(by_path["srv/d/one"]) == b"first"  # as often as somebody asks


def test_members_keep_mode_owner_and_time(tmp_path: Path) -> None:
    items = {item.entry.path: item.entry for item in add(tmp_path, SIMPLE)}
    one = items["srv/d/one"]
    assert (one.mode, one.uid, one.gid, one.size, one.mtime_ns) == (0o4640, 1000, 1000, 5, 77 * 10**9)
    assert items["srv/d"].mode == 0o750
    assert (items["srv"].uid, items["srv"].mode, items["srv"].mtime_ns) == (0, 0o755, 5)
    owned = add(tmp_path, SIMPLE, owner=(3, 4))
    assert {(item.entry.uid, item.entry.gid) for item in owned} == {(3, 4)}


@pytest.mark.parametrize(
    "data",
    [b"", b"text", bytes(2048), gzip.compress(b"text"), gzip.compress(SIMPLE)[:12], b"BZh9" + b"x" * 50, SIMPLE[:300]],
)
def test_anything_else_is_copied(tmp_path: Path, data: bytes) -> None:
    assert show(add(tmp_path, data)) == ["srv f"]


@pytest.mark.parametrize("data", [SIMPLE[:1400], gzip.compress(SIMPLE * 50)[:-30], lzma.compress(SIMPLE)[:-30]])
def test_a_damaged_archive(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ContextError, match=r"a\.bin cannot be unpacked"):
        add(tmp_path, data)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_large_archive_that_does_not_compress(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    noise = random.Random(1).randbytes(3 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("noise")
        info.size = len(noise)
        archive.addfile(info, io.BytesIO(noise))
    items = add(tmp_path, compress(out.getvalue()))
    assert read(items[1]) == noise


def test_without_unpacking_an_archive_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(SIMPLE)
    items = copy_items(CopyRequest(("a.tar",), "/srv/"), Context.open(tmp_path), LayerTree())
    assert show(items) == ["srv d", "srv/a.tar f"]


def test_several_archives_merge_and_the_last_wins(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(pack(("x/a", REG, "1"), ("x/b", REG, "1")))
    (tmp_path / "2.tar").write_bytes(pack(("x/b", REG, "22"), ("x/a/c", REG, "2")))
    request = CopyRequest(("1.tar",), "/", unpack_archives=True)
    assert show(copy_items(request, Context.open(tmp_path), LayerTree())) == ["x d", "x/a f", "x/b f"]
    with pytest.raises(BuildError, match="/x/a is not a directory"):
        copy_items(CopyRequest(("*.tar",), "/", unpack_archives=True), Context.open(tmp_path), LayerTree())
    (tmp_path / "2.tar").write_bytes(pack(("x/b", REG, "22"), ("x/a", DIR, ""), ("x/a/c", REG, "2")))
    items = copy_items(CopyRequest(("*.tar",), "/", unpack_archives=True), Context.open(tmp_path), LayerTree())
    assert show(items) == ["x d", "x/a d", "x/a/c f", "x/b f"]
    assert read(items[-1]) == b"22"


def test_directories_merge_and_the_rest_is_replaced(tmp_path: Path) -> None:
    lower = (
        Entry("srv/d", EntryType.DIRECTORY, 0o700),
        Entry("srv/d/keep", EntryType.FILE),
        Entry("srv/f", EntryType.DIRECTORY),
        Entry("srv/f/gone", EntryType.FILE),
        Entry("srv/n", EntryType.FILE),
    )
    items = add(tmp_path, pack(("d", DIR, ""), ("f", REG, "x"), ("n", DIR, ""), ("n/y", REG, "y")), *lower)
    assert show(items) == ["srv/d d", "srv/f f", "srv/n d", "srv/n/y f"]
    result = LayerTree((Toc(lower),)).push(Toc(tuple(item.entry for item in items)))
    assert [found.entry.path for found in result.walk("srv")] == ["srv/d", "srv/d/keep", "srv/f", "srv/n", "srv/n/y"]


def test_a_directory_that_comes_back_is_empty(tmp_path: Path) -> None:
    lower = (Entry("srv/f", EntryType.DIRECTORY), Entry("srv/f/gone", EntryType.FILE))
    items = add(tmp_path, pack(("f", REG, "x"), ("f", DIR, ""), ("f/new", REG, "y")), *lower)
    result = LayerTree((Toc(lower),)).push(Toc(tuple(item.entry for item in items)))
    assert [found.entry.path for found in result.walk("srv/f")] == ["srv/f/new"]


def test_links_are_followed_inside_the_destination_only(tmp_path: Path) -> None:
    lower = (Entry("srv/out", EntryType.SYMLINK, link="/etc"), Entry("etc/passwd", EntryType.FILE))
    items = add(
        tmp_path,
        pack(("out/passwd", REG, "x"), ("up", SYM, "../../.."), ("up/etc/shadow", REG, "y"), ("/abs", REG, "z")),
        *lower,
    )
    assert show(items) == ["srv/abs f", "srv/etc d", "srv/etc/passwd f", "srv/etc/shadow f", "srv/up l ../../.."]


def test_a_name_that_leaves_the_destination(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="leads out"):
        add(tmp_path, pack(("ok", REG, ""), ("../../etc/passwd", REG, "x")))


def test_hard_links(tmp_path: Path) -> None:
    items = {i.entry.path: i for i in add(tmp_path, pack(("z", REG, "data"), ("a", LNK, "z"), ("d/b", LNK, "./a")))}
    assert show(list(items.values())) == ["srv d", "srv/a f", "srv/d d", "srv/d/b h srv/a", "srv/z h srv/a"]
    assert read(items["srv/a"]) == b"data"
    lower = (Entry("srv/old", EntryType.FILE, 0o600, 4, 4, size=3),)
    assert show(add(tmp_path, pack(("new", LNK, "old")), *lower)) == ["srv/new h srv/old"]
    with pytest.raises(BuildError, match="not a file"):
        add(tmp_path, pack(("new", LNK, "nothing")))
