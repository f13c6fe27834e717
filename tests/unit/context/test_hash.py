"""Hashing of many files, as far as it needs no other process."""

from __future__ import annotations

import io
import marshal
import os
from pathlib import Path

import pytest

from ci_plugins.context import KnownDigests
from ci_plugins.context import hash as hash_module
from ci_plugins.context.hash import FileToHash, hash_files
from ci_plugins.context.hash_helper import LENGTH_SIZE, pack, serve
from ci_plugins.errors import ContextChanged, ContextError
from ci_plugins.oci import sha256_digest


def found(path: Path) -> FileToHash:
    status = path.lstat()
    return FileToHash(str(path), status.st_size, status.st_mtime_ns)


def test_the_file_that_was_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    os.utime(file, (1, 1))
    status = file.lstat()
    assert hash_files([found(file)]) == [(sha256_digest(b"x"), status.st_dev, status.st_ino, status.st_ctime_ns)]


def test_few_files_are_worth_no_helper() -> None:
    def helpers_for(count: int, size: int) -> int:
        return hash_module._helpers_for([FileToHash(f"{number}", size, 0) for number in range(count)])

    assert helpers_for(0, 0) == 0
    assert helpers_for(1000, 3000) == 0
    assert helpers_for(5000, 3000) == 1
    assert helpers_for(3, 60 << 20) == 2
    assert helpers_for(50_000, 0) == hash_module._MOST_HELPERS


def test_a_directory_where_a_file_was(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match=f"cannot read {tmp_path}: Is a directory") as caught:
        hash_files([found(tmp_path)])
    assert type(caught.value) is ContextError


def test_a_fifo_where_a_file_was_makes_nobody_wait(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    was = found(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ContextChanged, match="changed while the build read it"):
        hash_files([was])


class TestServe:
    """The helper's side of its pipes."""

    def answers(self, *batches: list[FileToHash]) -> list[object]:
        asked = io.BytesIO(b"".join(pack([tuple(file) for file in batch]) for batch in batches))
        answered = io.BytesIO()
        serve(asked, answered)
        answered.seek(0)
        read = []
        while header := answered.read(LENGTH_SIZE):
            read.append(marshal.loads(answered.read(int.from_bytes(header, "little"))))
        return read

    def test_answers_are_what_hash_files_returns(self, tmp_path: Path) -> None:
        batch = []
        for name in ("a", os.fsdecode(b"caf\xe9"), "new\nline", "é 日本"):
            (tmp_path / name).write_text(f"{os.fsencode(name)!r}")
            batch.append(found(tmp_path / name))
        assert self.answers(batch, [], batch[:1]) == [hash_files(batch), [], hash_files(batch[:1])]

    @pytest.mark.parametrize("trouble", ["gone", "changed", "directory", "link"])
    def test_a_batch_with_trouble_is_left_to_the_asker(self, tmp_path: Path, trouble: str) -> None:
        (tmp_path / "good").write_text("good")
        bad = tmp_path / "bad"
        bad.write_text("bad")
        file = found(bad)
        if trouble == "changed":
            bad.write_text("longer than before")
        else:
            bad.unlink()
        if trouble == "directory":
            bad.mkdir()
        elif trouble == "link":
            bad.symlink_to("good")
        good = found(tmp_path / "good")
        assert self.answers([good, file], [good]) == [None, hash_files([good])]


class TestNote:
    """What KnownDigests takes over from the hashing."""

    def known(self, tmp_path: Path, file: Path, began_ns: int) -> bool:
        listed = [found(file)]
        known = KnownDigests(tmp_path / "known")
        known.note(tmp_path, listed, hash_files(listed), began_ns)
        known.save()
        return bool(KnownDigests(tmp_path / "known").lookup(tmp_path, listed))

    def test_a_file_older_than_the_reading(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("x")
        changed = (tmp_path / "a").lstat().st_ctime_ns
        assert self.known(tmp_path, tmp_path / "a", changed + 2_000_000_001)

    def test_a_file_that_was_young_when_the_reading_began(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("x")
        os.utime(tmp_path / "a", (1, 1))  # its ctime is young still
        changed = (tmp_path / "a").lstat().st_ctime_ns
        assert not self.known(tmp_path, tmp_path / "a", changed + 1_999_999_999)

    def test_a_file_written_after_it_was_read_is_not_what_was_read(self, tmp_path: Path) -> None:
        file = tmp_path / "a"
        file.write_text("before")
        listed = [found(file)]
        known = KnownDigests(tmp_path / "known")
        hashed = hash_files(listed)
        file.write_text("after!")
        os.utime(file, ns=(0, listed[0].mtime_ns))
        known.note(tmp_path, listed, hashed, file.lstat().st_ctime_ns + 3_000_000_000)
        known.save()
        assert KnownDigests(tmp_path / "known").lookup(tmp_path, [found(file)]) == {}
