"""Overlayfs as the judge: what is changed in a mount, written as a layer and unpacked again, merges to the same tree.

Needs root and overlayfs on the file system of temporary files.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci_plugins.events import Recorder
from ci_plugins.layer.adopt import adopt_parents
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import Compression, Kind
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.entry import EntryType
from ci_plugins.layer.extract import extract_layer
from ci_plugins.layer.stream import Layer, contents_of, stream_layer
from ci_plugins.layer.tree import LayerTree
from ci_plugins.storage.local import LocalStore
from tests.layer_trees import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextmanager
def overlay(tmp_path: Path, *lowers: Path, upper: Path | None = None) -> Iterator[Path]:
    """Lowers topmost first; read-only without an upper directory."""
    target, work = tmp_path / "merged", tmp_path / "work"
    target.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    if upper is None:  # without one there must be two lowers
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        lowers = (*lowers, empty)
    options = f"lowerdir={':'.join(map(str, lowers))},redirect_dir=off,metacopy=off,index=off"
    if upper is not None:
        options += f",upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    root = tmp_path / "base"
    for directory in ("etc/conf.d", "usr/bin", "usr/share/doc/a", "var/cache/x", "srv/data/deep/er", "tmp"):
        (root / directory).mkdir(parents=True)
        (root / directory / "file").write_text(directory)
    (root / "tmp").chmod(0o1777)
    (root / "srv/data").chmod(0o2770)
    os.chown(root / "srv/data", 33, 44)
    (root / "usr/bin/tool").write_bytes(os.urandom(50_000))
    os.link(root / "usr/bin/tool", root / "usr/bin/alias")
    (root / "usr/bin/python").symlink_to("tool")
    for number in range(20):
        (root / f"etc/conf.d/{number:02}.conf").write_text(str(number))
    return root


def mutate(root: Path) -> None:
    """What a RUN may do to a file system."""
    (root / "etc/conf.d/03.conf").unlink()
    (root / "etc/conf.d/04.conf").rename(root / "etc/moved.conf")
    (root / "etc/conf.d/05.conf").write_text("changed")
    (root / "etc/conf.d/06.conf").chmod(0o400)
    os.chown(root / "etc/conf.d/07.conf", 1000, 1000)
    with (root / "etc/conf.d/08.conf").open("a") as file:
        file.write("more")
    shutil.rmtree(root / "usr/share/doc/a")
    (root / "usr/share/doc/a").write_text("a file where a directory was")
    (root / "usr/bin/python").unlink()
    (root / "usr/bin/python").mkdir()
    (root / "usr/bin/python/inside").write_text("a directory where a symlink was")
    shutil.rmtree(root / "var/cache/x")
    (root / "var/cache/x").mkdir()
    (root / "var/cache/x/new").write_text("in an opaque directory")
    shutil.rmtree(root / "srv/data/deep")
    os.link(root / "usr/bin/tool", root / "usr/bin/third-name")
    (root / "new").mkdir(mode=0o700)
    (root / "new/one").write_bytes(b"linked")
    os.link(root / "new/one", root / "new/two")
    subprocess.run(["setcap", "cap_net_bind_service+ep", root / "new/one"], check=True)
    os.setxattr(root / "etc/conf.d/09.conf", "user.note", b"kept")
    (root / "new/set-id").touch()
    (root / "new/set-id").chmod(0o4755)
    os.mkfifo(root / "new/fifo")
    listening = socket.socket(socket.AF_UNIX)
    here = os.open(root / "new", os.O_RDONLY)  # a socket's path has room for 107 bytes
    listening.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    listening.close()
    (root / "new/link").symlink_to("/etc/passwd")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "tmp/left-over").write_bytes(b"x")
    os.utime(root / "usr/share", (1, 1_000_000_000))


def written(tmp_path: Path, upper: Path, kind: Kind) -> tuple[LocalStore, Layer]:
    store = LocalStore(tmp_path / "store")
    with Recorder().span("layer", "test") as span, store.spool() as spool:
        layer = stream_layer(
            contents_of(diff_items(upper)), compression=Compression(kind), spool=spool, span=span, budget=MemoryBudget()
        )
    return store, layer


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_changed_mount_merges_to_the_same_again(tmp_path: Path, base: Path, kind: Kind) -> None:
    upper, unpacked = tmp_path / "upper", tmp_path / "unpacked"
    upper.mkdir()
    unpacked.mkdir()
    with overlay(tmp_path, base, upper=upper) as merged:
        mutate(merged)
        expected = describe(merged)
    store, layer = written(tmp_path, upper, kind)
    with Recorder().span("extract", "test") as span:
        blocks = store.source(layer.descriptor).blocks()
        extracted = extract_layer(blocks, layer.descriptor.media_type, unpacked, span=span)
    assert (extracted.toc, extracted.diff_id) == (layer.toc, layer.diff_id)
    assert layer.toc.kept == {"etc/passwd": b"root:x:0:0::/root:/bin/sh\n"}
    with overlay(tmp_path, unpacked, base) as merged:
        assert describe(merged) == expected
    assert not (unpacked / "new/socket").exists()
    # The tree that answers lookups without files says the same.
    below = extracted_base(tmp_path, base)
    tree = LayerTree([below.toc, layer.toc])
    for path, (mode, uid, gid, *_) in expected.items():
        found = tree.lookup(path)
        assert path == "" or found is not None, path
        if found is not None and found.entry.type is not EntryType.HARDLINK and path:
            assert (found.entry.mode, found.entry.uid, found.entry.gid) == (int(mode, 8) & 0o7777, uid, gid), path
    for gone in ("etc/conf.d/03.conf", "var/cache/x/file", "srv/data/deep/er", "usr/share/doc/a/file"):
        assert tree.lookup(gone) is None


def extracted_base(tmp_path: Path, base: Path) -> Layer:
    return written(tmp_path, base, "none")[1]


def test_a_layer_without_parents_takes_them_from_below(tmp_path: Path, base: Path) -> None:
    """The archive has no entry for /tmp: in the merged tree it keeps its sticky bit, and srv/data its owner."""
    upper, unpacked = tmp_path / "upper", tmp_path / "unpacked"
    for path in (upper / "tmp", upper / "srv/data", unpacked):
        path.mkdir(parents=True)
    (upper / "tmp/x").write_text("1")
    (upper / "srv/data/y").write_text("2")
    items = [item for item in diff_items(upper) if item.entry.type is not EntryType.DIRECTORY]
    store = LocalStore(tmp_path / "store")
    with Recorder().span("layer", "test") as span, store.spool() as spool:
        layer = stream_layer(
            contents_of(items),
            compression=Compression("gzip"),
            spool=spool,
            span=span,
            budget=MemoryBudget(),
            extract_to=unpacked,
        )
    tree = LayerTree([extracted_base(tmp_path, base).toc])

    with overlay(tmp_path, base) as merged:
        before = describe(merged)
    adopt_parents(unpacked, layer.toc.implied_parents(), tree.entry)
    with overlay(tmp_path, unpacked, base) as merged:
        after = describe(merged)
    assert set(after) == set(before) | {"tmp/x", "srv/data/y"}
    assert {path: after[path] for path in before if path} == {path: before[path] for path in before if path}
