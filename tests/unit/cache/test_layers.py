"""Snapshots get their name last; what has none and no owner is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from ci_plugins.cache.layers import LayerCache, is_whole
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.toc import Toc
from ci_plugins.oci import hex_of, sha256_digest

CHAIN = sha256_digest(b"chain")
TOC = Toc(
    (Entry("etc", EntryType.DIRECTORY, 0o755), Entry("etc/passwd", EntryType.FILE, 0o644, size=1)), {"etc/passwd": b"x"}
)


def test_a_snapshot_is_found_only_once_it_is_published(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    new = cache.new_snapshot()
    (new.path / "file").write_text("content")
    assert cache.snapshot(CHAIN) is None
    new.publish(CHAIN, TOC)
    cache.close()
    found = LayerCache(tmp_path).snapshot(CHAIN)
    assert found is not None
    assert (found / "file").read_text() == "content"


def test_closing_removes_what_was_not_published(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    path = cache.new_snapshot().path
    assert path.is_dir()
    cache.close()
    assert not path.exists()


def test_the_first_to_publish_keeps_the_name(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    first, second = cache.new_snapshot(), cache.new_snapshot()
    (first.path / "etc").mkdir()
    first.publish(CHAIN, TOC)
    second.publish(CHAIN, TOC)
    assert cache.snapshot(CHAIN) == first.path
    cache.close()
    assert first.path.is_dir()
    assert not second.path.exists()


def test_a_name_that_points_nowhere_is_given_anew(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    first = cache.new_snapshot()
    first.publish(CHAIN, TOC)
    shutil.rmtree(first.path.parent)
    assert cache.snapshot(CHAIN) is None
    second = cache.new_snapshot()
    second.publish(CHAIN, TOC)
    assert cache.snapshot(CHAIN) == second.path


def test_a_snapshot_that_was_emptied_loses_its_name(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    first, second = cache.new_snapshot(), cache.new_snapshot()
    (first.path / "etc").mkdir()
    first.publish(CHAIN, TOC)
    assert is_whole(first.path, TOC)
    (first.path / "etc").rmdir()
    assert not is_whole(first.path, TOC)
    second.publish(CHAIN, TOC)
    assert cache.snapshot(CHAIN) == second.path
    cache.close()
    LayerCache(tmp_path)
    assert not first.path.exists()


def test_a_damaged_table_of_contents_is_written_anew(tmp_path: Path) -> None:
    diff_id = sha256_digest(b"layer")
    LayerCache(tmp_path).put_toc(diff_id, TOC)
    (tmp_path / "toc" / hex_of(diff_id)).write_bytes(b"damaged")
    LayerCache(tmp_path).put_toc(diff_id, TOC)
    assert LayerCache(tmp_path).toc(diff_id) == TOC


def test_left_overs_of_a_dead_process_are_removed_and_the_living_are_not(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    alive = cache.new_snapshot()
    dead = tmp_path / "snapshots" / "data" / "dead"
    (dead / "fs").mkdir(parents=True)
    LayerCache(tmp_path)
    assert not dead.exists()
    assert alive.path.is_dir()


def test_tables_of_contents_are_kept_and_a_damaged_one_is_unknown(tmp_path: Path) -> None:
    diff_id = sha256_digest(b"layer")
    LayerCache(tmp_path).put_toc(diff_id, TOC)
    assert LayerCache(tmp_path).toc(diff_id) == TOC
    (tmp_path / "toc" / hex_of(diff_id)).write_bytes(b"damaged")
    assert LayerCache(tmp_path).toc(diff_id) is None
    assert LayerCache(tmp_path).toc(sha256_digest(b"other")) is None
