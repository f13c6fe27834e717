"""Digests of earlier builds: used for files that are what they were, and for no other."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ci_plugins.context import Context, KnownDigests
from ci_plugins.context import hash as hash_module
from ci_plugins.context import walk as walk_module
from ci_plugins.context.hash import FileToHash, HashedFile
from ci_plugins.oci import Digest, sha256_digest

OLD = 1_600_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    for name in ("a", "b", os.fsdecode(b"caf\xe9"), "with 'quote"):
        (directory / name).write_text(f"content of {os.fsencode(name)!r}")
    return directory


@pytest.fixture(autouse=True)
def old_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci_plugins.context.known._YOUNG", 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are really read."""
    names: list[str] = []

    def hash_files(files: list[FileToHash]) -> list[HashedFile]:
        names.extend(os.path.basename(file.path) for file in files)
        return hash_module.hash_files(files)

    monkeypatch.setattr(walk_module, "hash_files", hash_files)
    return names


def digests(root: Path, file: Path) -> dict[str, Digest]:
    """As a build does: hash, then keep."""
    known = KnownDigests(file)
    context = Context.open(root, None, known)
    names = sorted(context.children(""))
    found = dict(zip(names, context.content_digests(names), strict=True))
    known.save()
    assert found == {name: sha256_digest((root / name).read_bytes()) for name in names}, "always the truth"
    return found


def test_unchanged_files_are_not_read_again(root: Path, tmp_path: Path, read: list[str]) -> None:
    first = digests(root, tmp_path / "known")
    assert len(read) == 4
    read.clear()
    assert digests(root, tmp_path / "known") == first
    assert read == []


@pytest.mark.parametrize("what", ["rewritten", "replaced", "touched", "same size and time"])
def test_what_changed_is_read(root: Path, tmp_path: Path, read: list[str], what: str) -> None:
    digests(root, tmp_path / "known")
    file, status = root / "a", (root / "a").stat()
    match what:
        case "rewritten":
            file.write_text("something else")
        case "replaced":
            (root / "new").write_bytes(file.read_bytes()[::-1])
            os.utime(root / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
            (root / "new").rename(file)
        case "touched":
            os.utime(file, (OLD, OLD))
        case "same size and time":
            file.write_bytes(file.read_bytes()[::-1])
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    digests(root, tmp_path / "known")
    assert read == ["a"]


def test_young_files_are_not_trusted(
    root: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci_plugins.context.known._YOUNG", 3600 * 1_000_000_000)
    digests(root, tmp_path / "known")
    read.clear()
    digests(root, tmp_path / "known")
    assert len(read) == 4


def test_another_directory_with_a_name_that_begins_alike_is_another(
    root: Path, tmp_path: Path, read: list[str]
) -> None:
    digests(root, tmp_path / "known")
    other = tmp_path / "context-2"
    other.mkdir()
    (other / "a").write_text("other")
    read.clear()
    digests(other, tmp_path / "known")
    assert read == ["a"]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_damaged_file_knows_nothing(root: Path, tmp_path: Path, read: list[str], content: bytes) -> None:
    (tmp_path / "known").write_bytes(content)
    known = KnownDigests(tmp_path / "known")
    context = Context.open(root, None, known)
    assert context.content_digests(["a"]) == [sha256_digest((root / "a").read_bytes())]
    assert read == ["a"]
    known.save()
    read.clear()
    assert Context.open(root, None, KnownDigests(tmp_path / "known")).content_digests(["a"])
    assert read == [], "the damaged file was begun anew"


def test_a_file_that_another_build_writes_is_waited_for(root: Path, tmp_path: Path, read: list[str]) -> None:
    """And never taken for a damaged one: that would take the other's digests away."""
    digests(root, tmp_path / "known")
    (root / "a").write_text("changed")
    known = KnownDigests(tmp_path / "known")
    Context.open(root, None, known).content_digests(["a"])
    other = sqlite3.connect(tmp_path / "known", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM files WHERE CAST(path AS TEXT) LIKE '%/b'")
    threading.Timer(0.2, other.execute, ["COMMIT"]).start()
    with closing(other):
        known.save()
    read.clear()
    digests(root, tmp_path / "known")
    assert read == ["b"], "both wrote: one forgot b, the other knows the new a"


def test_a_file_that_stays_locked_is_kept(
    root: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci_plugins.context.known._PATIENCE", 0.05)
    digests(root, tmp_path / "known")
    (root / "a").write_text("changed")
    known = KnownDigests(tmp_path / "known")
    Context.open(root, None, known).content_digests(["a"])
    other = sqlite3.connect(tmp_path / "known", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
        known.save()
    read.clear()
    digests(root, tmp_path / "known")
    assert read == ["a"]
