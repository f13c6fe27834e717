"""What a prune takes of a state directory, and what it must not touch."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.locks import lock_directory
from ci_plugins.cache.prune_layers import Needed, prune_blobs, prune_layers
from ci_plugins.cache.removal import Freed, remove_file, remove_tree
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.toc import Toc
from ci_plugins.oci import Digest, hex_of, sha256_digest

DAY = 86400.0


def layer(state: Path, name: str, *, used: float = 0.0) -> Digest:
    """A published snapshot and its table of contents, used so many seconds ago; its chain is its layer."""
    diff_id, toc = sha256_digest(name.encode()), Toc((Entry(name, EntryType.FILE, 0o644, size=5),), {})
    cache = LayerCache(state)
    new = cache.new_snapshot()
    (new.path / name).write_text("12345")
    cache.put_toc(diff_id, toc)
    new.publish(diff_id, toc)
    cache.close()
    then = time.time() - used
    for path in (new.path.parent, state / "toc" / hex_of(diff_id)):
        os.utime(path, (then, then))
    return diff_id


def since(age: float) -> float:
    return time.time() - age


def there(state: Path) -> set[str]:
    return {path.name for path in (state / "snapshots/data").glob("*/fs/*")}


def test_what_no_record_names_goes_by_its_last_use(tmp_path: Path) -> None:
    kept = layer(tmp_path, "kept", used=9 * DAY)
    forgotten = layer(tmp_path, "forgotten")
    layer(tmp_path, "new base", used=DAY)
    layer(tmp_path, "old base", used=9 * DAY)
    needed = Needed({kept}, {forgotten}, since(5 * DAY))
    freed, left = prune_layers(tmp_path, needed)
    assert there(tmp_path) == {"kept", "new base"}
    assert (freed.snapshots, freed.tocs, freed.problems) == (2, 2, ())
    assert freed.bytes > 0
    assert left == {kept, sha256_digest(b"new base")}
    assert {path.name for path in (tmp_path / "toc").iterdir()} == set(map(hex_of, left))
    assert LayerCache(tmp_path).snapshot(forgotten) is None
    assert prune_layers(tmp_path, needed)[0].bytes == 0


def test_to_use_a_snapshot_keeps_it_and_makes_it_new(tmp_path: Path) -> None:
    used, looked_at = layer(tmp_path, "used", used=9 * DAY), layer(tmp_path, "looked at", used=9 * DAY)
    build = LayerCache(tmp_path)
    path = build.snapshot(used)
    assert build.snapshot(used) == path
    assert build.has_snapshot(looked_at)
    prune_layers(tmp_path, Needed((), {used, looked_at}, time.time() + DAY))
    assert there(tmp_path) == {"used"}, "in use, whatever else is said of it"
    build.close()
    prune_layers(tmp_path, Needed((), (), since(DAY)))
    assert there(tmp_path) == {"used"}, "used a moment ago"
    prune_layers(tmp_path, Needed((), {used}, 0.0))
    assert there(tmp_path) == set()


def test_one_that_its_maker_still_uses_stays(tmp_path: Path) -> None:
    build, toc, diff_id = LayerCache(tmp_path), Toc((), {}), sha256_digest(b"x")
    new = build.new_snapshot()
    build.put_toc(diff_id, toc)
    new.publish(diff_id, toc)
    prune_layers(tmp_path, Needed((), {diff_id}, time.time() + DAY))
    assert new.path.is_dir()
    assert LayerCache(tmp_path).snapshot(diff_id) == new.path
    build.close()
    LayerCache(tmp_path).close()


def test_a_snapshot_that_is_just_removed_is_not_found(tmp_path: Path) -> None:
    diff_id = layer(tmp_path, "x")
    (directory,) = (tmp_path / "snapshots/data").iterdir()
    lock = lock_directory(directory, fcntl.LOCK_EX)
    assert lock is not None
    assert LayerCache(tmp_path).snapshot(diff_id) is None
    os.close(lock)
    assert LayerCache(tmp_path).snapshot(diff_id) == directory / "fs"


def test_many_remove_the_same_at_once(tmp_path: Path) -> None:
    """Prunes, and builds that open the state and find what has just lost its name."""
    forgotten = {layer(tmp_path, f"layer {number}") for number in range(40)}
    for directory in (tmp_path / "snapshots/data").glob("*/fs"):
        for number in range(20):
            (directory / f"d{number}").mkdir()
            (directory / f"d{number}/file").write_text("x")
    ready = threading.Barrier(6)

    def prune() -> Freed:
        ready.wait()
        return prune_layers(tmp_path, Needed(set(), forgotten, since(0)))[0]

    def begin() -> Freed:
        ready.wait()
        freed = Freed()
        while any((tmp_path / "snapshots/data").iterdir()):
            freed += LayerCache(tmp_path).abandoned
        return freed

    with ThreadPoolExecutor(6) as threads:
        futures = [threads.submit(work) for work in (prune, begin) * 3]
    freed = sum((future.result() for future in futures), Freed())
    assert freed.problems == ()
    assert freed.tocs == 40
    assert there(tmp_path) == set()


def test_names_of_nothing_and_half_written_tables_go(tmp_path: Path) -> None:
    LayerCache(tmp_path)
    os.symlink("../data/gone", tmp_path / "snapshots/by-chain" / ("0" * 64))
    for name, age in (("new", 0.0), ("old", 2 * 3600.0)):
        (tmp_path / "toc" / f"{'1' * 64}.{name}").write_text("half")
        os.utime(tmp_path / "toc" / f"{'1' * 64}.{name}", (since(age), since(age)))
    prune_layers(tmp_path, Needed((), (), 0.0))
    assert os.listdir(tmp_path / "snapshots/by-chain") == []
    assert os.listdir(tmp_path / "toc") == [f"{'1' * 64}.new"]


def test_blobs(tmp_path: Path) -> None:
    names = {name: sha256_digest(name.encode()) for name in ("kept", "forgotten", "young", "recent", "old", "written")}
    for name, digest in names.items():
        path, age = tmp_path / hex_of(digest), {"young": 60.0, "recent": DAY}.get(name, 9 * DAY)
        path.write_bytes(bytes(5000))
        os.utime(path, (since(age), since(age)))
    needed = Needed({names["kept"]}, {names["forgotten"]}, since(5 * DAY))
    with (tmp_path / hex_of(names["written"])).open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        freed = prune_blobs(tmp_path, needed)
    left = {name for name, digest in names.items() if (tmp_path / hex_of(digest)).exists()}
    assert left == {"kept", "young", "recent", "written"}
    assert freed.blobs == 2
    assert freed.bytes >= 10_000
    prune_blobs(tmp_path, Needed((), (), time.time() + 1))
    assert [path.name for path in tmp_path.iterdir()] == [hex_of(names["young"])], "it may get its record yet"
    assert prune_blobs(tmp_path / "none", needed).blobs == 0


# -- removal -----------------------------------------------------------------------------------------------------------


def test_removal_follows_nothing_and_counts_what_is_free(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (outside / "inner").mkdir(parents=True)
    (outside / "precious").write_text("x")
    (tree / "in").mkdir(parents=True)
    (tree / "in/large").write_bytes(bytes(1 << 20))
    os.link(tree / "in/large", tree / "large again")
    os.link(outside / "precious", tree / "not alone")
    os.symlink(outside, tree / "link")
    os.symlink("/", tree / "in" / "root")
    os.mkfifo(tree / "pipe")
    (tree / "a\nb\udcff").write_text("x")
    (tree / "in").chmod(0)
    removed = remove_tree(tree)
    assert removed.problem == ""
    assert 1 << 20 <= removed.bytes < (1 << 20) + (64 << 10)
    assert not tree.exists()
    assert sorted(path.name for path in outside.iterdir()) == ["inner", "precious"]
    assert (outside / "precious").read_text() == "x"


def test_a_symbolic_link_is_no_directory_to_remove(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    os.symlink("outside", tmp_path / "link")
    assert "link" in remove_tree(tmp_path / "link").problem
    assert (tmp_path / "outside").is_dir()
    assert remove_tree(tmp_path / "nothing").problem == ""
    assert remove_file(tmp_path / "nothing") == 0


def test_any_depth(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=here)
    for name in ("top", *["d" * 50] * 1500):
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        os.mkdir("d" * 50, dir_fd=below)
        here = below
    os.close(here)
    assert remove_tree(tmp_path / "top").problem == ""
    assert not (tmp_path / "top").exists()


def test_what_cannot_be_removed_is_said_and_the_rest_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    for name in ("a/x", "b", "c"):
        (tree / name).write_text("x")
    real = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if name == "b":
            raise OSError(16, "Device or resource busy")
        real(name, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ci_plugins.cache.removal.os.unlink", refuse)
        problem = remove_tree(tree).problem
    assert "tree: b: Device or resource busy" in problem
    assert [path.name for path in tree.iterdir()] == ["b"]
