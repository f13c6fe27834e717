"""Other people's clients with our registry and our OCI layouts: skopeo, umoci, podman, Docker."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_plugins.events import Recorder
from ci_plugins.oci import (
    Descriptor,
    History,
    ImageConfig,
    ImageIndex,
    Manifest,
    Platform,
    media,
    parse_index,
    sha256_digest,
)
from ci_plugins.serve import Server, create_server
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.oci_layout import OciLayout
from tests.integration.dockerd import Dockerd, missing


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = create_server(tmp_path / "registry")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    assert not thread.is_alive()


def run(*command: str | Path) -> str:
    program = shutil.which(str(command[0]))
    assert program, f"{command[0]} is not installed (Debian package {command[0]})"
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# --- an image -------------------------------------------------------------------------------------------------------


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def add_image(layout: OciLayout, store: LocalStore, platform: Platform, tag: str | None) -> Manifest:
    """busybox in one layer, a greeting in a second; compressed, and written through the local store."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is not installed (Debian package busybox-static)"
    config = ImageConfig(platform, {"Cmd": ["/bin/busybox", "cat", "/greeting"], "Env": ["PATH=/bin"]})
    layers = []
    noise = os.urandom(3 << 20)  # more than one block
    for files in ({"bin/busybox": Path(busybox).read_bytes()}, {"greeting": f"{platform}\n".encode(), "noise": noise}):
        plain = archive(files)
        config = config.with_history(History("test"), sha256_digest(plain))
        layers.append(put(layout, store, gzip.compress(plain, 1), media.OCI_LAYER_GZIP))
    manifest = Manifest.of(put(layout, store, config.to_bytes(), media.OCI_CONFIG), layers)
    layout.put_manifest(manifest, tag)
    return manifest


def put(layout: OciLayout, store: LocalStore, data: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor(media_type, sha256_digest(data), len(data))
    store.put(data, descriptor)
    return layout.put_blob(store.source(descriptor), Recorder().begin("upload", "layer"))


@pytest.fixture
def image(tmp_path: Path) -> tuple[OciLayout, Manifest]:
    layout = OciLayout(tmp_path / "image")
    return layout, add_image(layout, LocalStore(tmp_path / "state"), Platform.of_host(), "1")


# --- skopeo and umoci -----------------------------------------------------------------------------------------------


def test_skopeo_copies_to_it_and_back(server: Server, image: tuple[OciLayout, Manifest], tmp_path: Path) -> None:
    layout, manifest = image
    there = f"docker://{server.address}/team/app:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.name}:1", there)
    seen = json.loads(run("skopeo", "inspect", "--tls-verify=false", there))
    assert seen["Digest"] == manifest.descriptor.digest
    assert seen["Layers"] == [layer.digest for layer in manifest.layers]
    run("skopeo", "copy", "--src-tls-verify=false", there, f"dir:{tmp_path}/back")
    assert (tmp_path / "back/manifest.json").read_bytes() == manifest.raw
    for descriptor in (manifest.config, *manifest.layers):
        assert sha256_digest((tmp_path / "back" / descriptor.digest[7:]).read_bytes()) == descriptor.digest
    # From a directory, as Docker's own format, to a second repository.
    second = f"docker://{server.address}/other:2"
    run("skopeo", "copy", "--dest-tls-verify=false", "--format=v2s2", f"dir:{tmp_path}/back", second)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", second)
    assert json.loads(raw)["mediaType"] == media.DOCKER_MANIFEST
    assert json.loads(run("skopeo", "list-tags", "--tls-verify=false", second.rpartition(":")[0]))["Tags"] == ["2"]


def test_skopeo_copies_an_index(server: Server, tmp_path: Path) -> None:
    layout, store = OciLayout(tmp_path / "image"), LocalStore(tmp_path / "state")
    platforms = [Platform("linux", "amd64"), Platform("linux", "arm64")]
    manifests = [add_image(layout, store, platform, None) for platform in platforms]
    entries = [
        {**manifest.descriptor.to_json(), "platform": platform.to_json()}
        for manifest, platform in zip(manifests, platforms, strict=True)
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}).encode()
    index = parse_index(raw, media.OCI_INDEX)
    layout.put_manifest(index, "all")
    there = f"docker://{server.address}/app:all"
    run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.name}:all", there)
    run("skopeo", "copy", "--all", "--src-tls-verify=false", there, f"oci:{tmp_path}/back:all")
    back = OciLayout(tmp_path / "back")
    assert back.manifest_digest("all") == index.descriptor.digest
    for platform, manifest in zip(platforms, manifests, strict=True):
        config = run(
            "skopeo", f"--override-arch={platform.architecture}", "inspect", "--config", "--tls-verify=false", there
        )
        assert json.loads(config)["architecture"] == platform.architecture
        assert all(back.has_blob(layer) for layer in manifest.layers)


def test_skopeo_deletes(server: Server, image: tuple[OciLayout, Manifest]) -> None:
    layout, _ = image
    there = f"docker://{server.address}/app"
    for tag in ("1", "2"):
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.name}:1", f"{there}:{tag}")
    run("skopeo", "delete", "--tls-verify=false", f"{there}:1")
    with pytest.raises(AssertionError, match="manifest unknown"):
        run("skopeo", "inspect", "--tls-verify=false", f"{there}:1")


def test_skopeo_and_umoci_read_a_layout(image: tuple[OciLayout, Manifest], tmp_path: Path) -> None:
    layout, manifest = image
    store = LocalStore(tmp_path / "state")
    add_image(layout, store, Platform.of_host(), "2")
    seen = json.loads(run("skopeo", "inspect", f"oci:{layout.name}:1"))
    assert seen["Digest"] == manifest.descriptor.digest
    assert run("umoci", "list", "--layout", layout.name).split() == ["1", "2"]
    run("umoci", "unpack", "--image", f"{layout.name}:2", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/greeting").read_text() == f"{Platform.of_host()}\n"
    # umoci writes to it too, collects garbage, and we read on.
    run("umoci", "tag", "--image", f"{layout.name}:1", "third")
    run("umoci", "gc", "--layout", layout.name)
    again = OciLayout(Path(layout.name))
    assert sorted(again.tags()) == ["1", "2", "third"]
    assert again.manifest_digest("third") == manifest.descriptor.digest
    assert all(again.has_blob(layer) for layer in manifest.layers)


def test_a_layout_made_by_skopeo_is_added_to(server: Server, image: tuple[OciLayout, Manifest], tmp_path: Path) -> None:
    layout, _ = image
    run("skopeo", "copy", f"oci:{layout.name}:1", f"oci:{tmp_path}/theirs:theirs")
    theirs = OciLayout(tmp_path / "theirs")
    add_image(theirs, LocalStore(tmp_path / "state"), Platform.of_host(), "ours")
    assert sorted(theirs.tags()) == ["ours", "theirs"]
    for tag in theirs.tags():
        run(
            "skopeo",
            "copy",
            "--dest-tls-verify=false",
            f"oci:{tmp_path}/theirs:{tag}",
            f"docker://{server.address}/x:{tag}",
        )


def test_an_image_without_a_tag_can_be_copied(tmp_path: Path) -> None:
    layout = OciLayout(tmp_path / "image")
    manifest = add_image(layout, LocalStore(tmp_path / "state"), Platform.of_host(), None)
    assert json.loads(run("skopeo", "inspect", f"oci:{layout.name}"))["Digest"] == manifest.descriptor.digest


# --- podman ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[str]:
    """podman wants at most 50 characters."""
    with tempfile.TemporaryDirectory(prefix="podman-") as path:
        yield path


def test_podman_pulls_and_pushes(
    server: Server, image: tuple[OciLayout, Manifest], tmp_path: Path, short_path: str
) -> None:
    layout, _ = image
    own = [f"--root={short_path}/root", f"--runroot={short_path}/run", "--storage-driver=vfs"]

    def podman(*arguments: str) -> str:
        return run("podman", *own, *arguments)

    first, second = f"{server.address}/app:1", f"{server.address}/pushed:2"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.name}:1", f"docker://{first}")
    podman("pull", "--tls-verify=false", first)
    podman("tag", first, second)
    podman("push", "--tls-verify=false", second)
    podman("rmi", "--all", "--force")
    podman("pull", "--tls-verify=false", second)
    config = json.loads(podman("image", "inspect", second))[0]["Config"]
    assert config["Cmd"] == ["/bin/busybox", "cat", "/greeting"]
    container = podman("create", second).strip()
    podman("cp", f"{container}:/greeting", f"{tmp_path}/greeting")
    assert (tmp_path / "greeting").read_text() == f"{Platform.of_host()}\n"


# --- Docker ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("containerd_store", [True, False])
def test_docker_pulls_runs_builds_and_pushes(
    server: Server, image: tuple[OciLayout, Manifest], tmp_path: Path, containerd_store: bool
) -> None:
    layout, _ = image
    first, second, third = (f"{server.address}/{name}" for name in ("app:1", "pushed:2", "built:3"))
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.name}:1", f"docker://{first}")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {first}\nCOPY greeting /greeting\n")
    (context / "greeting").write_text("hello from a build\n")
    with Dockerd.start(tmp_path / "docker", containerd_store=containerd_store) as docker:
        docker("pull", first)
        assert docker("run", "--rm", "--network=none", first) == f"{Platform.of_host()}\n"
        docker("tag", first, second)
        docker("push", second)
        docker("build", "--tag", third, str(context))
        docker("push", third)
        docker("rmi", "--force", first, second, third)
        docker("pull", third)
        assert docker("run", "--rm", "--network=none", third) == "hello from a build\n"
    for name in (first, second, third):
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_buildkit_pushes_and_caches(server: Server, image: tuple[OciLayout, Manifest], tmp_path: Path) -> None:
    layout, _ = image
    base = f"{server.address}/app:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.name}:1", f"docker://{base}")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f'FROM {base}\nRUN ["/bin/busybox", "cp", "/greeting", "/copied"]\n')
    cache = f"type=registry,ref={server.address}/cache"
    with Dockerd.start(tmp_path / "docker") as docker:
        # Both forms of a cache: an index that lists blobs, and an image manifest.
        for kind in ("false", "true"):
            docker(
                *("buildx", "build", "--push", "--tag", f"{server.address}/built:{kind}"),
                f"--cache-to={cache}:{kind},mode=max,image-manifest={kind},oci-mediatypes=true",
                *("--provenance=true", "--network=none", str(context)),
            )
    for name in ("built:true", "cache:true", "cache:false"):
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{server.address}/{name}")
        assert json.loads(raw)["schemaVersion"] == 2
    index = parse_index(
        run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{server.address}/built:true").encode(),
        media.OCI_INDEX,
    )
    assert isinstance(index, ImageIndex)
    assert len(index.manifests) == 2  # the image and its provenance
