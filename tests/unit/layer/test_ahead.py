"""Compressing ahead changes when the work is done, never what comes out."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
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
from ci_plugins.layer.stream import Layer, stream_layer
from ci_plugins.storage.local import LocalStore

GZIP = Compression("gzip")


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
    (root / "large").write_bytes(os.urandom(1 << 20) * 5)
    (root / "link").symlink_to("large")
    os.link(root / "large", root / "other-name")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_PAUSE", 0.01)
    monkeypatch.setattr(ahead_module, "_SETTLED", 0)


def written(root: Path, store: Path, ahead: Ahead | None) -> Layer:
    recorder = Recorder()
    local = LocalStore(store)
    with local.spool() as spool, recorder.span("layer", "x") as span:
        return stream_layer(
            diff_items(root), compression=GZIP, spool=spool, span=span, budget=MemoryBudget(64 << 20), ahead=ahead
        )


def worked(root: Path, scratch: Path, during: Callable[[], None] = lambda: None) -> Ahead:
    """An Ahead that has seen the whole tree; `during` is what the command does after that."""
    with Ahead(root, GZIP, scratch) as ahead:
        expected = sum(1 for group in groups(diff_items(root)) if any(item.content for item in group))
        deadline = time.monotonic() + 10
        while len(ahead._known) < expected and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(ahead._known) == expected
        ahead._stop.set()
        ahead._thread.join()
        during()
    return ahead


def taken(root: Path, ahead: Ahead) -> float:
    """The share of groups with content that are taken from ahead."""
    with_content = [group for group in groups(diff_items(root)) if any(item.content for item in group)]
    return sum(1 for group in with_content if ahead.ready(group)) / len(with_content)


def test_the_layer_is_the_same_with_and_without(tree: Path, tmp_path: Path) -> None:
    ahead = worked(tree, tmp_path)
    assert taken(tree, ahead) == 1
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


@pytest.mark.parametrize("what", ["append", "rewrite", "chmod", "replace", "remove", "add", "touch"])
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

    ahead = worked(tree, tmp_path, change)
    assert 0 < taken(tree, ahead) < 1
    assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_a_change_that_leaves_no_trace_in_the_times_is_seen_by_its_bytes(tree: Path, tmp_path: Path) -> None:
    """Through a memory mapping whose page is dirty already, a file changes and its times do not."""
    victim = tree / "large"
    with victim.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[100] = 1
        times = victim.stat().st_mtime_ns, victim.stat().st_ctime_ns

        def write() -> None:
            mapping[100] = 2

        ahead = worked(tree, tmp_path, write)
        assert (victim.stat().st_mtime_ns, victim.stat().st_ctime_ns) == times, "the premise of this test"
        assert taken(tree, ahead) == 1, "the times say that nothing changed"
        assert written(tree, tmp_path / "one", ahead) == written(tree, tmp_path / "two", None)


def test_files_that_come_and_go_meanwhile_do_no_harm(tree: Path, tmp_path: Path) -> None:
    with Ahead(tree, GZIP, tmp_path) as ahead:
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
    ahead = Ahead(tree, GZIP, tmp_path)
    with pytest.raises(RuntimeError), ahead:
        raise RuntimeError
    assert ahead._file.closed
    assert not ahead._thread.is_alive()
