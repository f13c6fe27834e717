"""Archives as they should not be, and what they become. The files are the tester's own: no rights are needed."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci_plugins.errors import CorruptLayer, DiskFull
from ci_plugins.events import Recorder
from ci_plugins.layer.entry import EntryType
from ci_plugins.layer.extract import Extracted, Limits, extract_layer, read_layer
from ci_plugins.oci import media, sha256_digest
from tests.layer_trees import archive, member

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "outside" / "root"
    path.mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_bytes(b"untouched")
    return path


def extract(root: Path, *members: Member, **options: Any) -> Extracted:
    whole = archive(*members)
    with Recorder().span("extract", "test") as span:
        extracted = extract_layer([whole], media.OCI_LAYER, root, span=span, **options)
        assert read_layer([whole], media.OCI_LAYER, span=span, **options) == extracted
    assert extracted.diff_id == sha256_digest(whole)
    assert extracted.size == len(whole)
    return extracted


def listing(extracted: Extracted) -> list[tuple[str, str]]:
    return [(entry.path, entry.type.value) for entry in extracted.toc.entries]


def files(root: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(root))] = path.read_bytes() if plain else None
    return found


def test_an_ordinary_layer(root: Path) -> None:
    extracted = extract(
        root,
        member("./", DIR, mode=0o755, mtime=5),
        member("./etc/", DIR, mode=0o700, mtime=1_600_000_000),
        member("./etc/passwd", data=b"root:x:0:0", mode=0o600, mtime=1_500_000_000),
        member("./etc/set-id", data=b"x", mode=0o6755),
        member("./etc/again", HARD, linkname="./etc/passwd"),
        member("./bin", LINK, linkname="usr/bin", mtime=7),
    )
    assert files(root) == {
        "bin": None, "etc": None, "etc/again": b"root:x:0:0", "etc/passwd": b"root:x:0:0", "etc/set-id": b"x",
    }  # fmt: skip
    assert (root / "etc").stat().st_mode & 0o7777 == 0o700
    assert (root / "etc/set-id").stat().st_mode & 0o7777 == 0o6755
    assert (root / "etc").stat().st_mtime == 1_600_000_000
    assert (root / "etc/passwd").stat().st_mtime == 1_500_000_000
    assert (root / "bin").lstat().st_mtime == 7
    assert root.stat().st_mtime == 5
    assert (root / "etc/again").stat().st_ino == (root / "etc/passwd").stat().st_ino
    assert extracted.toc.kept == {"etc/passwd": b"root:x:0:0"}
    assert extracted.implied == ()


def test_parents_without_an_entry_are_reported(root: Path) -> None:
    extracted = extract(root, member("a/b/c", data=b"1"), member("a/d/", DIR))
    assert extracted.implied == ("", "a", "a/b")
    assert (root / "a/b").stat().st_mode & 0o7777 == 0o755
    assert listing(extracted) == [("a/b/c", "f"), ("a/d", "d")]


def test_whiteouts(root: Path) -> None:
    with Recorder().span("extract", "test") as span:
        whole = archive(
            member("a/.wh.gone"), member("d/.wh..wh..opq"), member(".wh..wh.plnk", DIR), member(".wh..wh.aufs"),
            member("null", tarfile.CHRTYPE, devmajor=0, devminor=0),
        )  # fmt: skip
        extracted = read_layer([whole], media.OCI_LAYER, span=span)
    assert listing(extracted) == [("a/gone", "w"), ("d", "o"), ("null", "w")]


def test_whiteouts_hide_the_layers_below_only(root: Path) -> None:
    def read(*members: Member) -> list[tuple[str, str]]:
        with Recorder().span("extract", "test") as span:
            return listing(read_layer([archive(*members)], media.OCI_LAYER, span=span))

    file, whiteout = member("a/x", data=b"1"), member("a/.wh.x")
    assert read(file, whiteout) == read(whiteout, file) == [("a/x", "f")]
    directory = member("a/x/", DIR)
    assert read(directory, whiteout) == read(whiteout, directory) == [("a/x", "d"), ("a/x", "o")]
    below = member("a/x/y", data=b"2")
    assert read(below, whiteout) == read(whiteout, below) == [("a/x", "o"), ("a/x/y", "f")]


def test_the_last_entry_of_a_path_counts(root: Path) -> None:
    extracted = extract(
        root,
        member("x", data=b"old", mode=0o600),
        member("kept", HARD, linkname="x"),
        member("x", data=b"new", mode=0o640),
        member("d/", DIR, mode=0o700),
        member("d/below", data=b"stays"),
        member("d/", DIR, mode=0o711),
        member("e/", DIR),
        member("e/below", data=b"goes"),
        member("e", data=b"a file now"),
    )
    assert files(root) == {"d": None, "d/below": b"stays", "e": b"a file now", "kept": b"old", "x": b"new"}
    assert (root / "d").stat().st_mode & 0o7777 == 0o711
    assert listing(extracted) == [("d", "d"), ("d/below", "f"), ("e", "f"), ("kept", "f"), ("x", "f")]
    assert extracted.toc.entries[3].mode == 0o600


def test_hard_links_may_come_before_their_file(root: Path) -> None:
    extracted = extract(root, member("a/link", HARD, linkname="b"), member("b", data=b"1"))
    assert files(root) == {"a": None, "a/link": b"1", "b": b"1"}
    assert extracted.missing_links == ()


def test_hard_links_to_other_layers_are_reported(root: Path) -> None:
    extracted = extract(root, member("link", HARD, linkname="/usr/bin/perl"))
    assert extracted.missing_links == (("link", "usr/bin/perl"),)
    assert files(root) == {}


def test_a_large_file_and_its_holes(root: Path) -> None:
    data = b"begin" + bytes(3 << 20) + b"end"
    extract(root, member("a/big", data=data), member("a/zero", data=bytes(2 << 20)))
    assert (root / "a/big").read_bytes() == data
    assert (root / "a/zero").read_bytes() == bytes(2 << 20)
    assert (root / "a/zero").stat().st_blocks < 100


def test_symlinks_within_the_layer_are_followed_inside(root: Path) -> None:
    """As unpacking into a root directory does: absolute targets begin at the root, ".." ends there."""
    extracted = extract(
        root,
        member("lib", LINK, linkname="/usr/lib"),
        member("up", LINK, linkname="../../../../usr"),
        member("lib/x", data=b"1"),
        member("up/y", data=b"2"),
        member("usr/z", data=b"3"),
        member("h", HARD, linkname="lib/x"),
    )
    assert files(root) == {
        "h": b"1", "lib": None, "up": None, "usr": None, "usr/lib": None, "usr/lib/x": b"1",
        "usr/y": b"2", "usr/z": b"3",
    }  # fmt: skip
    assert [entry.link for entry in extracted.toc.entries if entry.type is EntryType.HARDLINK] == ["usr/lib/x"]


MALICIOUS: dict[str, list[Member]] = {
    "..": [member("../secret", data=b"!")],
    ".. in the middle": [member("a/../../secret", data=b"!")],
    "absolute": [member("/../secret", data=b"!")],
    "symlink to outside, then a file through it": [
        member("x", LINK, linkname="../.."), member("x/outside/secret", data=b"!"),
    ],
    "absolute symlink": [member("x", LINK, linkname="/"), member("x/../../secret", data=b"!")],
    "symlink to a symlink": [
        member("a", LINK, linkname=".."), member("b", LINK, linkname="a/.."), member("b/secret", data=b"!"),
    ],
    "a file through a symlink to a file": [member("x", LINK, linkname="../secret"), member("x", data=b"!")],
    "hard link to a symlink": [
        member("x", LINK, linkname="../.."), member("y", HARD, linkname="x"), member("y/outside/secret", data=b"!"),
    ],
    "hard link to outside": [member("x", HARD, linkname="../secret"), member("x", data=b"!")],
    "hard link to an absolute name": [member("x", HARD, linkname="/../secret"), member("x", data=b"!")],
    "directory replaced by a symlink": [
        member("d/", DIR), member("d/f", data=b"1"), member("d", LINK, linkname=".."), member("d/secret", data=b"!"),
    ],
    "directory entry over a symlink": [
        member("d", LINK, linkname=".."), member("d/", DIR, mode=0o777), member("d/secret", data=b"!"),
    ],
    "whiteout of ..": [member("a/.wh...")],
    "whiteout of .": [member("a/.wh..")],
    "whiteout of nothing": [member("a/.wh.")],
    "whiteout through a symlink": [member("x", LINK, linkname=".."), member("x/.wh.secret")],
    "loop of symlinks": [
        member("a", LINK, linkname="b"), member("b", LINK, linkname="a"), member("a/x", data=b"!"),
    ],
    "below a file": [member("a", data=b"1"), member("a/b", data=b"!")],
    "a root that is a file": [member("x", data=b"1"), member(".", data=b"!")],
    "a root that is a symlink": [member("./", LINK, linkname=".."), member("secret", data=b"!")],
    "hard link to itself": [member("x", HARD, linkname="x")],
    "hard link to a directory": [member("d/", DIR), member("x", HARD, linkname="d")],
    "a name too long": [member("n" * 256, data=b"!")],
    "a path too long": [member("d/" * 2500 + "x", data=b"!")],
    "a symlink to nothing": [member("x", LINK, linkname="")],
    "a symlink too long": [member("x", LINK, linkname="y" * 5000)],
}  # fmt: skip
HARMLESS = {
    "symlink to outside, then a file through it", "symlink to a symlink", "a file through a symlink to a file",
    "hard link to a symlink", "directory replaced by a symlink", "directory entry over a symlink",
    "whiteout through a symlink",
}  # fmt: skip


@pytest.mark.parametrize("what", MALICIOUS)
def test_nothing_leaves_the_root(tmp_path: Path, root: Path, what: str) -> None:
    """Refused, or done inside the root: the directory around it stays as it was."""
    whole = archive(*MALICIOUS[what])
    with Recorder().span("extract", "test") as span:
        if what in HARMLESS:
            extract_layer([whole], media.OCI_LAYER, root, span=span)
        else:
            with pytest.raises(CorruptLayer):
                extract_layer([whole], media.OCI_LAYER, root, span=span)
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert sorted(os.listdir(tmp_path / "outside")) == ["root", "secret"]
    assert (tmp_path / "outside/secret").read_bytes() == b"untouched"
    assert (tmp_path / "outside/secret").stat().st_nlink == 1


def test_what_lies_in_the_root_already_is_not_followed(tmp_path: Path, root: Path) -> None:
    (root / "x").symlink_to("..")
    with pytest.raises(CorruptLayer), Recorder().span("extract", "test") as span:
        extract_layer([archive(member("x/secret", data=b"!"))], media.OCI_LAYER, root, span=span)
    assert (tmp_path / "outside/secret").read_bytes() == b"untouched"


def test_limits(root: Path) -> None:
    members = [member(f"f{i}", data=b"x" * 10) for i in range(5)]
    extract(root, *members, limits=Limits(entries=5, bytes=50))
    for limits in (Limits(entries=4), Limits(bytes=49)):
        with pytest.raises(CorruptLayer, match="more than"), Recorder().span("extract", "test") as span:
            read_layer([archive(*members)], media.OCI_LAYER, span=span, limits=limits)


def test_a_full_disk_is_called_that(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", write)
    with pytest.raises(DiskFull), Recorder().span("extract", "test") as span:
        extract_layer([archive(member("x", data=b"1"))], media.OCI_LAYER, root, span=span)


def test_a_failing_download_is_called_what_it_is(root: Path) -> None:
    whole = archive(member("x", data=b"1" * 3_000_000))

    def blocks() -> Iterator[bytes]:
        yield whole[:1_500_000]
        raise ConnectionResetError("reset by peer")

    with pytest.raises(ConnectionResetError), Recorder().span("extract", "test") as span:
        extract_layer(blocks(), media.OCI_LAYER, root, span=span)
