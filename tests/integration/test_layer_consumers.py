"""Layers of many gzip members or zstd frames, read by everybody else's tools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ci_plugins.events import Recorder
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import CHUNK, Compression, Kind
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.stream import Layer, contents_of, stream_layer
from ci_plugins.oci import History, ImageConfig, Manifest, Platform, hex_of, media, sha256_digest
from ci_plugins.storage.local import LocalStore
from tests.layer_trees import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacking with owners needs root")


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.fail(f"{tool} is not installed: script/test installs what the tests need")
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr").mkdir(parents=True)
    half = os.urandom(CHUNK // 2)
    for number in range(5):
        (root / f"usr/file{number}").write_bytes(half + b"text that repeats\n" * (CHUNK // 36))
    (root / "usr/link").symlink_to("file0")
    (root / "hello").write_text("hello")
    return root


def layout(tmp_path: Path, tree: Path, kind: Kind) -> tuple[Path, Layer]:
    """An OCI layout with one image, `:test`, of one layer."""
    store = LocalStore(tmp_path / "layout")
    with Recorder().span("layer", "test") as span, store.spool() as spool:
        layer = stream_layer(
            contents_of(diff_items(tree)), compression=Compression(kind), spool=spool, span=span, budget=MemoryBudget()
        )
    assert layer.size > 4 * CHUNK
    config = ImageConfig(Platform.of_host()).with_history(History("test"), layer.diff_id)
    manifest = Manifest.of(config.descriptor(), [layer.descriptor])
    for data in (config.to_bytes(), manifest.raw):
        (store.root / "blobs/sha256" / hex_of(sha256_digest(data))).write_bytes(data)
    named = {**manifest.descriptor.to_json(), "annotations": {"org.opencontainers.image.ref.name": "test"}}
    (store.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (store.root / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [named]})
    )
    (store.root / "spool").rmdir()
    return store.root, layer


@pytest.mark.parametrize(("kind", "tool"), [("gzip", "gunzip"), ("zstd", "unzstd")])
def test_the_command_line_tools(tmp_path: Path, tree: Path, kind: Kind, tool: str) -> None:
    root, layer = layout(tmp_path, tree, kind)
    with (root / "blobs/sha256" / hex_of(layer.descriptor.digest)).open("rb") as blob:
        plain = subprocess.run([need(tool), "-c"], stdin=blob, capture_output=True, check=True).stdout
    assert sha256_digest(plain) == layer.diff_id


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_skopeo_unpacks_to_the_diff_id(tmp_path: Path, tree: Path, kind: Kind) -> None:
    root, layer = layout(tmp_path, tree, kind)
    target = tmp_path / "image"
    subprocess.run(
        [need("skopeo"), "copy", "--quiet", "--dest-decompress", f"oci:{root}:test", f"dir:{target}"], check=True
    )
    assert sha256_digest((target / hex_of(layer.diff_id)).read_bytes()) == layer.diff_id


def test_umoci_unpacks_the_tree(tmp_path: Path, tree: Path) -> None:
    root, _ = layout(tmp_path, tree, "gzip")
    subprocess.run([need("umoci"), "unpack", "--image", f"{root}:test", tmp_path / "bundle"], check=True)
    ours, theirs = describe(tree), describe(tmp_path / "bundle/rootfs")
    assert {path: detail for path, detail in theirs.items() if path} == {
        path: detail for path, detail in ours.items() if path
    }


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_podman_mounts_the_tree(tmp_path: Path, tree: Path, kind: Kind) -> None:
    root, _ = layout(tmp_path, tree, kind)
    with TemporaryDirectory(prefix="run") as short:  # podman takes 50 characters
        podman = [need("podman"), "--root", str(tmp_path / "podman"), "--runroot", short, "--storage-driver", "vfs"]
        image = run(*podman, "pull", "--quiet", f"oci:{root}:test")
        mounted = Path(run(*podman, "image", "mount", image))
        try:
            ours, theirs = describe(tree), describe(mounted)
        finally:
            run(*podman, "image", "unmount", image)
    assert {path: detail for path, detail in theirs.items() if path} == {
        path: detail for path, detail in ours.items() if path
    }


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
