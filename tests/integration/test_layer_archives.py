"""Layers and GNU tar: each reads what the other wrote, and the trees are the same. Needs root, tar and setcap."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_plugins.errors import CorruptLayer
from ci_plugins.events import Recorder
from ci_plugins.layer.adopt import adopt_parents, copy_up_links
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.extract import Extracted, extract_layer, read_layer
from ci_plugins.layer.names import OVERLAY_OPAQUE
from ci_plugins.layer.tar import write_tar
from ci_plugins.oci import media
from tests.layer_trees import archive, describe, member

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and attributes need root")


def extract(whole: bytes, root: Path) -> Extracted:
    root.mkdir()
    with Recorder().span("extract", "test") as span:
        return extract_layer([whole], media.OCI_LAYER, root, span=span)


def make_tree(root: Path) -> None:
    """Everything a layer may hold but whiteouts."""
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir").chmod(0o1777)
    (root / "dir/sub").chmod(0o2750)
    os.chown(root / "dir/sub", 12, 34)
    (root / "empty").touch()
    (root / "small").write_bytes(b"small")
    (root / "large").write_bytes(os.urandom(3_000_001))
    os.chown(root / "small", 2_500_000, 3_000_000_000)
    (root / "small").chmod(0o640)
    os.utime(root / "small", (1, 1_234_567_890))
    (root / "set-id").write_bytes(b"x")
    (root / "set-id").chmod(0o6755)
    (root / "capable").write_bytes(b"x")
    subprocess.run(["setcap", "cap_net_raw+ep", root / "capable"], check=True)
    os.setxattr(root / "small", "user.note", b"\0binary\xff")
    os.setxattr(root / "dir", "user.of-a-directory", b"1")
    (root / "link").symlink_to("small")
    os.lchown(root / "link", 5, 6)
    (root / "long-link").symlink_to("x/" * 200 + "end")
    (root / "deep" / ("n" * 200) / ("m" * 200)).mkdir(parents=True)
    (root / "deep" / ("n" * 200) / ("m" * 200) / ("f" * 250)).write_bytes(b"deep")
    Path(os.fsdecode(os.fsencode(root) + b"/b\xff\xfe \n name")).write_bytes(b"odd")
    (root / "ünïcode").write_bytes(b"odd too")
    os.link(root / "small", root / "z-hard")
    os.link(root / "link", root / "z-hard-symlink", follow_symlinks=False)
    os.mkfifo(root / "fifo")
    os.mknod(root / "tty", 0o20620, os.makedev(5, 1))
    os.mknod(root / "disk", 0o60660, os.makedev(259, 70_000))
    with (root / "sparse").open("wb") as file:
        for at in (100_000, 2_000_000, 5_000_000):
            file.seek(at)
            file.write(b"data")
        file.truncate(6_000_000)
    os.utime(root / "dir", (1, 1_000_000_000))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    make_tree(root)
    return root


def tar(*arguments: str | Path) -> str:
    done = subprocess.run(["tar", *map(str, arguments)], capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout.decode(errors="surrogateescape")


def test_gnu_tar_unpacks_what_we_write(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(b"".join(write_tar(diff_items(tree))))
    (tmp_path / "out").mkdir()
    tar("--xattrs", "--xattrs-include=*", "-xpf", tmp_path / "layer.tar", "-C", tmp_path / "out")
    assert describe(tmp_path / "out") == describe(tree)


def test_gnu_tar_lists_what_we_write(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.tar").write_bytes(b"".join(write_tar(diff_items(tree))))
    tar("--format=posix", "--numeric-owner", "--no-recursion", "-cf", tmp_path / "theirs.tar", "-C", tree, "--null",
        "-T", _names(tree, tmp_path))  # fmt: skip
    listings = [
        tar("--numeric-owner", "--full-time", "--quoting-style=escape", "-tvf", tmp_path / name).splitlines()
        for name in ("ours.tar", "theirs.tar")
    ]
    # GNU tar stores fractions of seconds; the columns' widths are those of the longest line.
    ours, theirs = ([re.sub(r"(:\d\d)\.\d+", r"\1", line).split() for line in lines] for lines in listings)
    assert ours == theirs


def _names(tree: Path, tmp_path: Path) -> Path:
    names = b"\0".join(os.fsencode(item.entry.path) for item in diff_items(tree))
    (tmp_path / "names").write_bytes(names)
    return tmp_path / "names"


@pytest.mark.parametrize(
    "format",
    [
        ["--format=gnu"],
        ["--format=gnu", "--sparse"],
        ["--format=oldgnu", "--sparse"],
        ["--format=posix", "--xattrs", "--xattrs-include=*"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=posix", "--sparse", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
def test_we_unpack_what_gnu_tar_writes(tree: Path, tmp_path: Path, format: list[str]) -> None:
    tar(*format, "--numeric-owner", "-cf", tmp_path / "layer.tar", "-C", tree, ".")
    extracted = extract((tmp_path / "layer.tar").read_bytes(), tmp_path / "out")
    ours, original = describe(tmp_path / "out"), describe(tree)
    if "--xattrs" not in format:
        ours, original = (
            {path: (*detail[:5], detail[6]) for path, detail in found.items()} for found in (ours, original)
        )
    # Which of a file's names comes first is the archiver's choice.
    assert {path: detail[:4] + detail[5:] for path, detail in ours.items()} == {
        path: detail[:4] + detail[5:] for path, detail in original.items()
    }
    assert (tmp_path / "out/z-hard").samefile(tmp_path / "out/small")
    assert extracted.toc.implied_parents() == ()


def test_there_and_back(tree: Path, tmp_path: Path) -> None:
    whole = b"".join(write_tar(diff_items(tree)))
    extracted = extract(whole, tmp_path / "out")
    assert describe(tmp_path / "out") == describe(tree)
    assert b"".join(write_tar(diff_items(tmp_path / "out"))) == whole
    assert extracted.toc.entries == tuple(
        sorted((item.entry for item in diff_items(tree)), key=lambda entry: entry.path)
    )


def test_whiteouts_and_opaque_directories(tmp_path: Path) -> None:
    whole = archive(
        member("etc/.wh.gone"), member("srv/", tarfile.DIRTYPE, mode=0o700), member("srv/.wh..wh..opq"),
        member("opt/x/.wh..wh..opq"), member(".wh.d"), member("d/x", data=b"new"),
    )  # fmt: skip
    root = tmp_path / "out"
    extracted = extract(whole, root)
    gone = (root / "etc/gone").lstat()
    assert (gone.st_mode & 0o170000, gone.st_rdev) == (0o020000, 0)
    for opaque in ("srv", "opt/x", "d"):
        assert os.getxattr(root / opaque, OVERLAY_OPAQUE) == b"y"
    assert (root / "srv").stat().st_mode & 0o7777 == 0o700
    again = b"".join(write_tar(diff_items(root)))
    with Recorder().span("extract", "test") as span:
        found = {(entry.path, entry.type) for entry in read_layer([again], media.OCI_LAYER, span=span).toc.entries}
    assert found >= {(entry.path, entry.type) for entry in extracted.toc.entries}


def test_parents_look_as_below(tmp_path: Path) -> None:
    extracted = extract(archive(member("tmp/a/file", data=b"1")), tmp_path / "out")
    assert extracted.implied == ("", "tmp", "tmp/a")
    below = {
        "": Entry("", EntryType.DIRECTORY, 0o755, 0, 0, mtime_ns=5 * 10**9),
        "tmp": Entry("tmp", EntryType.DIRECTORY, 0o1777, 7, 8, mtime_ns=9 * 10**9, xattrs={"user.x": b"1"}),
        "tmp/a": Entry("tmp/a", EntryType.SYMLINK, 0o777, link="b"),
    }
    adopt_parents(tmp_path / "out", extracted.implied, below.get)
    status = (tmp_path / "out/tmp").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime) == (0o1777, 7, 8, 9)
    assert os.getxattr(tmp_path / "out/tmp", "user.x") == b"1"
    assert (tmp_path / "out").stat().st_mtime == 5
    assert (tmp_path / "out/tmp/a").stat().st_mode & 0o7777 == 0o755


def test_hard_links_to_files_of_layers_below(tree: Path, tmp_path: Path) -> None:
    whole = archive(
        member("new/one", tarfile.LNKTYPE, linkname="small"), member("two", tarfile.LNKTYPE, linkname="small"),
        member("three", tarfile.LNKTYPE, linkname="dir/sub/file"),
    )  # fmt: skip
    (tree / "dir/sub/file").write_bytes(b"below")
    extracted = extract(whole, tmp_path / "out")
    assert [path for path, _ in extracted.missing_links] == ["new/one", "three", "two"]
    made = copy_up_links(tmp_path / "out", extracted.missing_links, lambda path: tree / path)
    assert made == ("dir", "dir/sub")
    ours, below = describe(tmp_path / "out"), describe(tree)
    assert ours["small"][:4] + ours["small"][5:] == below["small"][:4] + below["small"][5:]
    for name in ("new/one", "two"):
        assert (tmp_path / "out" / name).samefile(tmp_path / "out/small")
    assert (tmp_path / "out/three").read_bytes() == b"below"
    with pytest.raises(CorruptLayer, match="no layer holds"):
        copy_up_links(tmp_path / "out", [("x", "nowhere")], lambda path: None)


NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/b/c", "b/a", ".wh.a", "a/.wh.b", "a/b/.wh.c", "a/.wh..wh..opq", "b/.wh..wh..opq"]
)
TARGETS = st.sampled_from(["a", "b", "a/b", "/b", "../a", "b/a", "."])
MEMBERS = st.one_of(
    st.builds(lambda name, data: member(name, data=data), NAMES, st.binary(max_size=3)),
    st.builds(lambda name, mode: member(name + "/", tarfile.DIRTYPE, mode=mode), NAMES, st.integers(0o700, 0o777)),
    st.builds(
        lambda name, kind, target: member(name, kind, linkname=target),
        NAMES,
        st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE]),
        TARGETS,
    ),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.lists(MEMBERS, min_size=1, max_size=9))
def test_the_contents_tell_what_is_on_disk(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Any members in any order, paths more than once, through each other's symlinks: what the table of contents says
    and what the directory holds is the same, with or without a disk; or both refuse."""
    whole, root = archive(*members), tmp_path / "out"
    shutil.rmtree(root, ignore_errors=True)
    with Recorder().span("extract", "test") as span:
        try:
            expected = read_layer([whole], media.OCI_LAYER, span=span)
        except CorruptLayer:
            with pytest.raises(CorruptLayer):
                extract(whole, root)
            return
    extracted = extract(whole, root)
    assert extracted == expected
    # A walk begins below the root and does not see that it is opaque.
    assert _on_disk(root) == _told(extracted) - {("", "o")}
    for entry in extracted.toc.entries:
        if entry.type is EntryType.HARDLINK and (entry.path, entry.link) not in extracted.missing_links:
            assert os.path.samestat(os.lstat(root / entry.path), os.lstat(root / entry.link))


def _on_disk(root: Path) -> set[tuple[str, str]]:
    """Paths and kinds; a hard link is of its file's kind."""
    kinds: dict[str, str] = {}
    opaque = set()
    for item in diff_items(root):
        entry = item.entry
        if entry.type is EntryType.OPAQUE:
            opaque.add((entry.path, "o"))
        else:
            kinds[entry.path] = kinds[entry.link] if entry.type is EntryType.HARDLINK else entry.type.value
    return opaque | set(kinds.items())


def _told(extracted: Extracted) -> set[tuple[str, str]]:
    missing = dict(extracted.missing_links)
    kinds = {entry.path: entry.type.value for entry in extracted.toc.entries if entry.type is not EntryType.OPAQUE}
    told = {(path, "d") for path in extracted.implied if path}
    for entry in extracted.toc.entries:
        if entry.path not in missing:
            told.add((entry.path, kinds[entry.link] if entry.type is EntryType.HARDLINK else entry.type.value))
    return told
