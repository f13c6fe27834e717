"""Compressing ahead changes when the work is done, never what comes out."""

from __future__ import annotations

import gzip
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.events import Recorder
from ci_plugins.layer import ahead as ahead_module
from ci_plugins.layer.ahead import Ahead
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import CHUNK, Compression
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.groups import chunks, groups
from ci_plugins.layer.stream import Layer, contents_of, stream_layer
from ci_plugins.oci import sha256_digest
from ci_plugins.storage.local import LocalStore

#: gives the same bytes for the same tar every time, which gzip 1 does not quite (compress.py)
ZSTD = Compression("zstd")


def file(path: str, size: int) -> Item:
    return Item(Entry(path, EntryType.FILE, size=size), b"")


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=6), st.integers(0, 3 * CHUNK)), max_size=60))
def test_groups_keep_every_item_in_its_order(files: list[tuple[str, int]]) -> None:
    items = [file(path, size) for path, size in files]
    runs = list(groups(items))
    assert [item for run in runs for item in run] == items
    for run in runs:
        assert len(run) == 1 or sum(item.entry.size for item in run) < 2 * CHUNK


def test_one_more_file_changes_the_groups_around_it_only() -> None:
    items = [file(f"usr/lib/{number:05}.py", 9000) for number in range(4000)]
    more = sorted([*items, file("usr/lib/00100a.py", 9000)], key=lambda item: item.entry.path)
    before = {tuple(item.entry.path for item in run) for run in groups(items)}
    after = {tuple(item.entry.path for item in run) for run in groups(more)}
    assert len(before) > 20
    assert len(before - after) <= 3


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 200))
def test_chunks_keep_the_bytes(blocks: list[bytes], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ci_plugins.layer.groups.CHUNK", size)
        cut = [b"".join(pieces) for pieces in chunks(blocks)]
    assert b"".join(cut) == b"".join(blocks)
    assert all(len(chunk) == size for chunk in cut[:-1])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of all sizes, left alone for a while."""
    root = tmp_path / "upper"
    for number in range(40):
        directory = root / f"d{number % 4}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(1000) * (1 + number * 15))
    (root / "small").mkdir()
    for number in range(200):
        (root / "small" / f"{number:03}").write_bytes(os.urandom(5000))
    (root / "large").write_bytes(os.urandom(1 << 20) * 5)
    (root / "link").symlink_to("large")
    os.link(root / "large", root / "other-name")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_PAUSE", 0.01)
    monkeypatch.setattr(ahead_module, "_SETTLED", 20_000_000)


def written(root: Path, store: Path, ahead: Ahead | None, how: Compression = ZSTD) -> Layer:
    recorder = Recorder()
    local = LocalStore(store)
    with local.spool() as spool, recorder.span("layer", "x") as span:
        return stream_layer(
            contents_of(ahead.items() if ahead else diff_items(root)),
            compression=how,
            spool=spool,
            span=span,
            budget=MemoryBudget(64 << 20),
            ahead=ahead,
        )


def worked(
    root: Path, scratch: Path, during: Callable[[], None] = lambda: None, but: int = 0, how: Compression = ZSTD
) -> Ahead:
    """An Ahead that has seen the whole tree; `during` is what the command does after that. `but` so many groups cannot
    be compressed ahead."""
    with Ahead(root, how, scratch) as ahead:
        expected = len(list(groups(diff_items(root)))) - but
        deadline = time.monotonic() + 60
        while len(ahead._known) < expected and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.1)  # for what should not come
        assert len(ahead._known) == expected
        ahead._stop.set()
        ahead._thread.join()
        during()
    return ahead


def taken(ahead: Ahead) -> float:
    """The share of groups that are taken from ahead."""
    found = list(groups(ahead.items()))
    return sum(1 for group in found if ahead.ready(group)) / len(found)


@pytest.mark.parametrize("how", [ZSTD, Compression("gzip", 4)], ids=lambda how: how.kind)
def test_the_layer_is_the_same_with_and_without(tree: Path, tmp_path: Path, how: Compression) -> None:
    ahead = worked(tree, tmp_path, how=how)
    assert taken(ahead) == 1
    assert written(tree, tmp_path / "one", ahead, how) == written(tree, tmp_path / "two", None, how)


def test_the_default_gzip_makes_the_same_layer(tree: Path, tmp_path: Path) -> None:
    ahead = worked(tree, tmp_path, how=Compression("gzip"))
    assert taken(ahead) == 1
    one = written(tree, tmp_path / "one", ahead, Compression("gzip"))
    two = written(tree, tmp_path / "two", None, Compression("gzip"))
    assert (one.diff_id, one.size, one.toc) == (two.diff_id, two.size, two.toc)
    blob = LocalStore(tmp_path / "one").path(one.descriptor.digest).read_bytes()
    assert sha256_digest(gzip.decompress(blob)) == one.diff_id


@pytest.mark.parametrize(
    "what", ["append", "rewrite", "chmod", "replace", "remove", "add", "touch", "attribute", "opaque", "link", "move"]
)
def test_what_changes_afterwards_is_compressed_again(tree: Path, tmp_path: Path, what: str) -> None:
    victim = tree / "d1" / "f5"

    def change() -> None:
        match what:
            case "append":
                with victim.open("ab") as stream:
                    stream.write(b"more")
            case "rewrite":
                victim.write_bytes(os.urandom(victim.stat().st_size))
            case "chmod":
                victim.chmod(0o751)
            case "replace":
                status, data = victim.stat(), os.urandom(victim.stat().st_size)
                (tree / "new").write_bytes(data)
                os.utime(tree / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
                (tree / "new").rename(victim)
            case "remove":
                victim.unlink()
            case "add":
                (tree / "d1" / "f5a").write_bytes(b"new")
            case "touch":
                os.utime(victim, (1, 1))
            case "attribute":
                os.setxattr(victim, "user.x", b"y")
            case "opaque":
                os.setxattr(victim.parent, "user.overlay.opaque", b"y")
            case "link":
                os.link(victim, tree / "d1" / "f5a")
            case "move":
                # Now the other name of a file with two comes first, and the directory's files are where none were.
                (tree / "large").rename(tree / "z-large")
                victim.parent.rename(tree / "d1a")

    ahead = worked(tree, tmp_path, change)
    assert ahead.items() == list(diff_items(tree))
    assert 0 < taken(ahead) < 1
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


@pytest.mark.parametrize("name", ["large", "small/007"])
def test_a_change_that_leaves_no_trace_in_the_times_is_not_missed(tree: Path, tmp_path: Path, name: str) -> None:
    """Through a memory mapping whose page is dirty already, a file changes and its times do not: what can be written
    to through one is not compressed ahead."""
    victim = tree / name
    with mapped(victim) as mapping:
        mapping[100] = 1
        times = victim.stat().st_mtime_ns, victim.stat().st_ctime_ns

        def write() -> None:
            mapping[100] = 2

        ahead = worked(tree, tmp_path, write, but=1)
        assert (victim.stat().st_mtime_ns, victim.stat().st_ctime_ns) == times, "the premise of this test"
        assert 0 < taken(ahead) < 1
        assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_a_mapping_made_later_leaves_its_trace(tree: Path, tmp_path: Path) -> None:
    victim = tree / "small" / "007"

    def write() -> None:
        with mapped(victim) as mapping:
            mapping[100] ^= 1

    ahead = worked(tree, tmp_path, write)
    assert 0 < taken(ahead) < 1
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as stream:
        mapping = mmap.mmap(stream.fileno(), 0)
    with mapping:
        yield mapping


def test_who_writes_while_a_file_is_looked_at_only_waits(tree: Path, tmp_path: Path) -> None:
    """The lease with which writers are found is broken by those that come: they must not fail, nor end the process."""
    victim, ended = tree / "d1" / "f5", threading.Event()

    def look() -> None:
        while not ended.is_set():
            ahead_module._has_writers(str(victim))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(2000):
            victim.write_bytes(b"%d" % number)
    finally:
        ended.set()
        looking.join()
    assert victim.read_bytes() == b"1999"
    assert not ahead_module._has_writers(str(victim))
    with victim.open("ab"):
        assert ahead_module._has_writers(str(victim))


def test_a_file_that_changes_all_the_time_is_left_to_the_end(tree: Path, tmp_path: Path) -> None:
    with Ahead(tree, ZSTD, tmp_path) as ahead:
        for number in range(12):
            (tree / "large").write_bytes(os.urandom(3 << 20))
            deadline = time.monotonic() + 0.15
            while time.monotonic() < deadline:
                time.sleep(0.01)
            assert number < 6 or ahead._end < 40 << 20
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_nothing_is_kept_where_the_disk_is_nearly_full(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "_ROOM", 1 << 60)
    with Ahead(tree, ZSTD, tmp_path) as ahead:
        time.sleep(0.2)
    assert ahead._end == 0
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_files_that_come_and_go_meanwhile_do_no_harm(tree: Path, tmp_path: Path) -> None:
    with Ahead(tree, ZSTD, tmp_path) as ahead:
        end = time.monotonic() + 0.5
        number = 0
        while time.monotonic() < end:
            number += 1
            (tree / f"t{number % 7}").mkdir(exist_ok=True)
            (tree / f"t{number % 7}" / "x").write_bytes(os.urandom(20_000))
            (tree / f"t{number % 7}" / "x").unlink()
            (tree / f"t{number % 7}").rmdir()
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_a_failed_command_leaves_no_file_open(tree: Path, tmp_path: Path) -> None:
    ahead = Ahead(tree, ZSTD, tmp_path)
    with pytest.raises(RuntimeError), ahead:
        raise RuntimeError
    assert ahead._file.closed
    assert not ahead._thread.is_alive()
