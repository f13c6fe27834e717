"""The local store: a blob is there whole or not at all, and readers may follow its writer."""

# ruff: noqa: PT012 - what raises is the block of a `with`, by design
from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.errors import CiPluginsError, DiskFull, SizeMismatch, StateError
from ci_plugins.oci import Descriptor, sha256_digest
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.local import LocalStore, Spool


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "state")


def described(data: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", sha256_digest(data), len(data))


def spools(store: LocalStore) -> list[Path]:
    return list((store.root / "spool").iterdir())


def test_a_blob_is_read_back(store: LocalStore) -> None:
    data = os.urandom(3 * BLOCK + 17)
    descriptor = described(data)
    assert not store.has(descriptor)
    store.put(data, descriptor)
    assert store.has(descriptor)
    assert store.read(descriptor) == data
    assert store.path(descriptor.digest).read_bytes() == data
    assert spools(store) == []
    for offset in (0, 1, BLOCK, len(data) - 1, len(data), len(data) + 5):
        assert b"".join(store.source(descriptor).blocks(offset)) == data[offset:]


def test_the_same_content_twice_is_one_blob(store: LocalStore) -> None:
    descriptor = described(b"same")
    with store.spool() as first, store.spool() as second:
        for spool in (first, second):
            spool.write(b"same")
            spool.commit(descriptor)
        assert b"".join(first.blocks()) == b"same"
    assert len(list((store.root / "blobs/sha256").iterdir())) == 1


def test_a_blob_of_another_size_is_not_there_and_is_written_again(store: LocalStore) -> None:
    descriptor = described(b"whole content")
    store.path(descriptor.digest).write_bytes(b"whole")
    assert not store.has(descriptor)
    with pytest.raises(SizeMismatch, match="has 5 bytes instead of 13"):
        list(store.source(descriptor).blocks())
    store.put(b"whole content", descriptor)
    assert store.read(descriptor) == b"whole content"


def test_a_removed_blob(store: LocalStore) -> None:
    data = os.urandom(2 * BLOCK)
    descriptor = described(data)
    store.put(data, descriptor)
    reading = store.source(descriptor).blocks()
    first = next(reading)
    store.remove(descriptor.digest)
    store.remove(descriptor.digest)
    assert not store.has(descriptor)
    assert first + b"".join(reading) == data  # who was reading reads on
    with pytest.raises(StateError, match="cannot read"):
        list(store.source(descriptor).blocks())


def test_a_verified_file_is_adopted(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "received"
    path.write_bytes(b"received")
    store.adopt(path, described(b"received").digest)
    assert not path.exists()
    assert store.read(described(b"received")) == b"received"
    with pytest.raises(StateError):
        store.adopt(path, described(b"received").digest)


def test_commit_refuses_another_size(store: LocalStore) -> None:
    with pytest.raises(SizeMismatch, match="6 bytes, but 3 were written"), store.spool() as spool:
        spool.write(b"abc")
        spool.commit(described(b"abcdef"))
    assert not store.has(described(b"abcdef"))
    assert spools(store) == []


def test_path_is_known_when_complete(store: LocalStore) -> None:
    with store.spool() as spool:
        spool.write(b"abc")
        assert (spool.path, spool.descriptor, spool.size) == (None, None, 3)
        spool.commit(described(b"abc"))
        assert spool.path == store.path(described(b"abc").digest)


def test_memoryviews_of_other_items_are_written_as_bytes(store: LocalStore) -> None:
    import array

    numbers = array.array("I", range(1000))
    with store.spool() as spool:
        spool.write(memoryview(numbers))
        spool.commit(described(numbers.tobytes()))
    assert store.read(described(numbers.tobytes())) == numbers.tobytes()


# --- giving up ------------------------------------------------------------------------------------------------------


def test_leaving_without_commit_gives_up(store: LocalStore) -> None:
    with store.spool() as spool:
        spool.write(b"half")
    assert spools(store) == []
    with pytest.raises(CiPluginsError, match="given up"):
        list(spool.blocks())


def test_readers_get_the_writers_reason(store: LocalStore) -> None:
    started = threading.Event()

    def follow(spool: Spool) -> bytes:
        reading = spool.blocks()
        first = next(reading)
        started.set()
        return first + b"".join(reading)

    with ThreadPoolExecutor() as pool:
        with pytest.raises(ZeroDivisionError), store.spool() as spool:
            spool.write(b"half")
            following = pool.submit(follow, spool)
            assert started.wait(5)
            raise ZeroDivisionError("the compressor broke")
        with pytest.raises(ZeroDivisionError, match="compressor"):
            following.result(5)


def test_abort_after_commit_changes_nothing(store: LocalStore) -> None:
    with store.spool() as spool:
        spool.write(b"done")
        spool.commit(described(b"done"))
        spool.abort(RuntimeError("too late"))
        assert b"".join(spool.blocks()) == b"done"
    assert store.read(described(b"done")) == b"done"


def test_an_error_after_commit_leaves_the_blob(store: LocalStore) -> None:
    with pytest.raises(RuntimeError), store.spool() as spool:
        spool.write(b"done")
        spool.commit(described(b"done"))
        raise RuntimeError
    assert b"".join(spool.blocks()) == b"done"


def test_disk_full(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset >= 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, bytes(data)[:60], offset)  # short writes, as a nearly full disk makes them

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull, match="no space left") as caught, store.spool() as spool:
        spool.write(b"x" * 60)
        spool.write(b"y" * 500)
    assert caught.value.exit_code == 60
    assert spools(store) == []
    with pytest.raises(DiskFull):
        list(spool.blocks())
    monkeypatch.undo()
    store.put(b"again", described(b"again"))
    assert store.read(described(b"again")) == b"again"


def test_short_writes_are_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:7], offset))
    data = bytes(range(256))
    store.put(data, described(data))
    assert store.read(described(data)) == data


def test_an_unusable_directory_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        LocalStore(tmp_path / "file")


# --- left-overs -----------------------------------------------------------------------------------------------------


def test_left_overs_are_removed_unless_somebody_writes_them(tmp_path: Path) -> None:
    folder = LocalStore(tmp_path).root / "spool"
    long_ago = time.time() - 3600
    for name in ("dead", "alive", "young"):
        (folder / name).write_bytes(b"x")
    for name in ("dead", "alive"):
        os.utime(folder / name, (long_ago, long_ago))
    with (folder / "alive").open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        LocalStore(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"alive", "young"}


def test_a_silent_writer_is_alive(store: LocalStore) -> None:
    with store.spool() as spool:
        spool.write(b"slow")
        os.utime(spools(store)[0], (1, 1))
        LocalStore(store.root)
        spool.commit(described(b"slow"))
    assert store.has(described(b"slow"))


def test_file_descriptors_are_given_back(store: LocalStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for end in range(20):
        data = b"%d" % end
        with store.spool() as spool:
            spool.write(data)
            reading = spool.blocks()
            next(reading)
            if end % 2:
                spool.commit(described(data))
        del reading  # a reader that stops early
    assert len(os.listdir("/proc/self/fd")) == before


# --- following ------------------------------------------------------------------------------------------------------


def test_a_reader_waits_for_bytes(store: LocalStore) -> None:
    with store.spool() as spool, ThreadPoolExecutor() as pool:
        reading = spool.blocks(3)
        late = pool.submit(next, reading)
        spool.write(b"abc")
        time.sleep(0.05)
        assert not late.done()
        spool.write(b"def")
        assert late.result(5) == b"def"
        spool.commit(described(b"abcdef"))
        assert list(reading) == []


def test_empty_blob(store: LocalStore) -> None:
    with store.spool() as spool:
        spool.commit(described(b""))
        assert list(spool.blocks()) == []
    assert store.has(described(b""))
    assert list(store.source(described(b"")).blocks()) == []


@settings(max_examples=40)
@given(
    pieces=st.lists(st.integers(1, 3 * BLOCK // 2), max_size=8),
    offsets=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    commits=st.booleans(),
    data=st.data(),
)
def test_readers_follow_a_writer(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[int],
    offsets: list[float],
    commits: bool,
    data: st.DataObject,
) -> None:
    """Whenever a reader starts, and wherever: it gets exactly the bytes from there on, or the writer's reason."""
    store = LocalStore(tmp_path_factory.mktemp("state"))
    whole = hashlib.shake_128(repr(pieces).encode()).digest(sum(pieces))
    starts = data.draw(st.lists(st.integers(0, len(pieces)), min_size=len(offsets), max_size=len(offsets)))

    def read(offset: int) -> bytes:
        return b"".join(spool.blocks(offset))

    readers = []
    with ThreadPoolExecutor(len(offsets) + 1) as pool:
        with store.spool() as spool:
            position = 0
            for number in range(len(pieces) + 1):
                for start, part in zip(starts, offsets, strict=True):
                    if start == number:
                        offset = int(part * len(whole))
                        readers.append((offset, pool.submit(read, offset)))
                if number < len(pieces):
                    spool.write(whole[position : position + pieces[number]])
                    position += pieces[number]
            if commits:
                spool.commit(described(whole))
            else:
                spool.abort(RuntimeError("given up"))
        readers.append((0, pool.submit(read, 0)))
        for offset, reader in readers:
            if commits:
                assert reader.result(20) == whole[offset:]
            else:
                with pytest.raises(RuntimeError, match="given up"):
                    reader.result(20)
    assert store.has(described(whole)) == commits
    assert spools(store) == []


def test_many_writers_and_readers_of_the_same_content(store: LocalStore) -> None:
    """Two builds that make the same layer at the same time, with uploads following both."""
    whole = os.urandom(2 * BLOCK)
    descriptor = described(whole)
    wrong: list[str] = []

    def write() -> None:
        with store.spool() as spool:
            readers = [threading.Thread(target=check, args=(spool,)) for _ in range(2)]
            for reader in readers:
                reader.start()
            for start in range(0, len(whole), 100_000):
                spool.write(whole[start : start + 100_000])
            spool.commit(descriptor)
        check(spool)
        for reader in readers:
            reader.join()

    def check(spool: Spool) -> None:
        if b"".join(spool.blocks()) != whole:
            wrong.append("read something else")

    writers = [threading.Thread(target=write) for _ in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert wrong == []
    assert store.read(descriptor) == whole
    assert spools(store) == []
