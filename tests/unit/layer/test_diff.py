from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ci_plugins.errors import SandboxError
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.entry import EntryType


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    root = tmp_path / "upper"
    (root / "b/c").mkdir(parents=True)
    (root / "b/c/file").write_bytes(b"content")
    (root / "b/c/file").chmod(0o4755)
    os.utime(root / "b/c/file", ns=(0, 1_700_000_000_987_654_321))
    (root / "b-x").write_bytes(b"")
    (root / "b/link").symlink_to("/somewhere/else")
    os.link(root / "b/c/file", root / "a-second-name")
    os.mkfifo(root / "pipe")
    return root


def test_items_are_sorted_and_complete(upper: Path) -> None:
    items = list(diff_items(upper))
    found = [(item.entry.path, item.entry.type.value, item.entry.link) for item in items]
    assert found == [
        ("a-second-name", "f", ""),
        ("b", "d", ""),
        ("b/c", "d", ""),
        ("b/c/file", "h", "a-second-name"),
        ("b/link", "l", "/somewhere/else"),
        ("b-x", "f", ""),
        ("pipe", "p", ""),
    ]
    file = items[0].entry
    assert (file.mode, file.size, file.uid, file.mtime_ns) == (0o4755, 7, os.geteuid(), 1_700_000_000 * 10**9)
    assert items[0].content == str(upper / "a-second-name")
    assert all(item.content is None for item in items[1:])


def test_sockets_are_left_out(upper: Path) -> None:
    before = list(diff_items(upper))
    os.mknod(upper / "socket", stat.S_IFSOCK | 0o644)
    assert list(diff_items(upper)) == before


def test_attributes(upper: Path) -> None:
    try:
        os.setxattr(upper / "b-x", "user.kept", b"\0value")
        os.setxattr(upper / "b", "user.overlay.opaque", b"y")
        os.setxattr(upper / "b/c", "user.overlay.opaque", b"n")
    except OSError as error:
        pytest.skip(f"the file system of temporary files takes no attributes: {error}")
    items = {(item.entry.path, item.entry.type): item.entry for item in diff_items(upper)}
    assert dict(items["b-x", EntryType.FILE].xattrs) == {"user.kept": b"\0value"}
    assert not items["b", EntryType.DIRECTORY].xattrs
    assert ("b", EntryType.OPAQUE) in items
    assert ("b/c", EntryType.OPAQUE) not in items


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_a_directory_that_does_not_hold_its_contents_is_refused(upper: Path, name: str) -> None:
    try:
        os.setxattr(upper / "b", f"user.overlay.{name}", b"/elsewhere")
    except OSError as error:
        pytest.skip(f"the file system of temporary files takes no attributes: {error}")
    with pytest.raises(SandboxError, match=name):
        list(diff_items(upper))


def test_trees_deeper_than_calls(tmp_path: Path) -> None:
    depth = 1200
    top = os.open(tmp_path, os.O_RDONLY)
    fd = os.dup(top)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    os.close(top)
    try:
        assert [item.entry.path.count("/") for item in diff_items(tmp_path)] == list(range(depth))
    finally:  # what removes temporary directories is recursive
        for _ in range(depth - 1):
            (tmp_path / "d/d").rename(tmp_path / "e")
            (tmp_path / "d").rmdir()
            (tmp_path / "e").rename(tmp_path / "d")


def test_no_changes(tmp_path: Path) -> None:
    assert list(diff_items(tmp_path)) == []
