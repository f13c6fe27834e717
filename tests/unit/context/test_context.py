"""The build context as a tree of entries."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from ci_plugins.context import Context
from ci_plugins.errors import BuildError, ContextChanged, ContextNotFound, OutsideContext
from ci_plugins.layer.entry import EntryType


def test_a_context_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ContextNotFound, match="is not a directory"):
        Context.open(tmp_path / "file")
    with pytest.raises(ContextNotFound, match="does not exist"):
        Context.open(tmp_path / "none")


def test_nothing_is_read_before_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    read: list[str] = []
    scandir = os.scandir
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: (read.append(os.path.relpath(path, tmp_path)), scandir(path))[1])
        context = Context.open(tmp_path)
        assert read == []
        context.lookup("a/x")
        context.lookup("a/y")
    assert read == [".", "a"]


def test_entries(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o750)
    file = tmp_path / "dir" / "tool"
    file.write_bytes(b"12345")
    file.chmod(0o4751)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    (tmp_path / "link").symlink_to("/dir/../dir/tool")
    os.mkfifo(tmp_path / "fifo", 0o600)
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    context = Context.open(tmp_path)
    assert list(context.children("")) == ["dir", "fifo", "link"]
    tool, link = context.lookup("dir/tool"), context.lookup("link")
    assert tool is not None
    assert link is not None
    assert (tool.path, tool.type, tool.mode, tool.size) == ("dir/tool", EntryType.FILE, 0o4751, 5)
    assert (tool.uid, tool.gid, tool.mtime_ns) == (0, 0, 1_234_567_890_123_456_789)
    assert (link.type, link.link) == (EntryType.SYMLINK, "/dir/../dir/tool")
    assert context.lookup("link/x") is None
    assert list(context.children("link")) == []
    assert [entry.path for entry in context.walk()] == ["dir", "dir/tool", "fifo", "link"]


def test_links_are_followed_inside_the_context(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "up").symlink_to("../../../../in")
    (tmp_path / "loop").symlink_to("loop")
    context = Context.open(tmp_path)
    assert context.resolve("up/x") == "in/x"
    assert context.resolve("/in/../up") == "in"
    with pytest.raises(BuildError, match="symbolic links"):
        context.resolve("loop")


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/../x"])
def test_a_path_that_leaves_the_context(tmp_path: Path, path: str) -> None:
    with pytest.raises(OutsideContext) as caught:
        Context.open(tmp_path).resolve(path)
    assert caught.value.exit_code == 22


def test_hard_links_have_the_same_identity(tmp_path: Path) -> None:
    for name in ("a", "other"):
        (tmp_path / name).write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    context = Context.open(tmp_path)
    assert context.identity("a") is not None
    assert context.identity("a") == context.identity("b")
    assert context.identity("other") is None


def test_digests_of_many_files_in_their_order(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(700)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(name.encode() * number)
    big = os.urandom((2 << 20) + 1)
    for name, data in (("exact", big[: 1 << 20]), ("big", big), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
    names += ["exact", "big", "empty", "f7"]
    expected = ["sha256:" + hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    assert Context.open(tmp_path).content_digests(names) == expected


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("x")
    context = Context.open(tmp_path)
    before = context.content_digests(["a"])
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("read again"))
    assert context.content_digests(["a", "a"]) == before * 2


@pytest.mark.parametrize("change", ["content", "shrink", "touch", "link", "gone"])
def test_a_file_that_changes_before_it_is_read(tmp_path: Path, change: str) -> None:
    file = tmp_path / "a"
    file.write_text("before")
    context = Context.open(tmp_path)
    assert context.lookup("a")
    alter(file, change)
    with pytest.raises(ContextChanged, match="changed while"):
        context.content_digests(["a"])


@pytest.mark.parametrize("change", ["content", "touch", "link", "gone", "replaced"])
def test_a_file_that_changes_after_it_was_read(tmp_path: Path, change: str) -> None:
    file = tmp_path / "a"
    file.write_text("before")
    context = Context.open(tmp_path)
    context.content_digests(["a"])
    context.check_unchanged()
    alter(file, change)
    with pytest.raises(ContextChanged, match="changed while"):
        context.check_unchanged()


def alter(file: Path, change: str) -> None:
    status = file.stat()
    if change == "content":
        file.write_text("other content")
    elif change == "shrink":
        os.truncate(file, 2)
        os.utime(file, ns=(0, status.st_mtime_ns))
    elif change == "touch":
        os.utime(file, ns=(0, status.st_mtime_ns + 1))
    elif change == "replaced":
        other = file.with_name("b")
        other.write_text("BEFORE")
        os.utime(other, ns=(0, status.st_mtime_ns))
        other.rename(file)
    else:
        file.unlink()
        if change == "link":
            file.symlink_to("/etc/hostname")


def test_absence_tells_what_the_ignore_file_does(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("# nothing big\n*.bin\n")
    (tmp_path / "data.bin").touch()
    (tmp_path / "dangling").symlink_to("data.bin")
    context = Context.open(tmp_path)
    assert "line 2 of .dockerignore (*.bin) excludes data.bin" in context.absence("data.bin")
    assert "data.bin" in context.absence("*.bin")
    assert "symbolic link to data.bin" in context.absence("dangling")
    assert context.absence("other") == ""


def test_extended_attributes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    try:
        os.setxattr(file, "user.color", b"blue")
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} keeps no user attributes: {error}")
    entry = Context.open(tmp_path).lookup("a")
    assert entry is not None
    assert dict(entry.xattrs) == {"user.color": b"blue"}
