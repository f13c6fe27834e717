"""Push and pull against a real docker-registry, with skopeo as second opinion."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from ci_plugins.errors import DigestMismatch, ImageNotFound, RegistryRejected, SizeMismatch
from ci_plugins.events import Event, Progress, Recorder
from ci_plugins.oci import Descriptor, Reference, media, parse_digest, sha256_digest
from ci_plugins.storage.registry import RegistryClient, RegistryDestination
from tests.faults import Fault, FaultProxy
from tests.integration.registry_samples import (
    Growing,
    Image,
    Memory,
    attributes,
    client_of,
    layer_of,
    origin_of,
    pulled,
    random_bytes,
    store_in,
    upload_span,
)
from tests.servers import DockerRegistry

MIB = 1 << 20


@pytest.fixture
def client(registry: DockerRegistry) -> RegistryClient:
    return client_of(registry.host)


def push(destination: RegistryDestination, image: Image, tag: str) -> None:
    for blob in image.blobs:
        destination.put_blob(blob, upload_span())
    destination.put_manifest(image.manifest, tag)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 5 * MIB + 17])
@pytest.mark.parametrize("kind", [Memory, Growing])
def test_a_blob_goes_there_and_back(client: RegistryClient, size: int, kind: type[Memory]) -> None:
    data = random_bytes(size, seed=size + 1)
    recorder = Recorder()
    span = upload_span(recorder)
    destination = RegistryDestination(client, f"blobs/{kind.__name__.lower()}")

    descriptor = destination.put_blob(kind(data), span)

    assert descriptor == layer_of(data)
    assert pulled(client, f"blobs/{kind.__name__.lower()}", descriptor) == data
    assert attributes(span, recorder) == {
        "destination": f"{client.registry}/blobs/{kind.__name__.lower()}",
        "bytes": size,
        "digest": descriptor.digest,
        "result": "uploaded",
        "retries": 0,
    }


def test_what_is_there_is_not_sent_again(registry: DockerRegistry) -> None:
    image = Image.of(random_bytes(2 * MIB, 3), random_bytes(100, 4))
    with FaultProxy.start(registry.port) as proxy:
        push(RegistryDestination(client_of(proxy.host), "again/once"), image, "1")
        sent = proxy.uploaded()
        proxy.forget()
        recorder = Recorder()
        span = upload_span(recorder)
        destination = RegistryDestination(client_of(proxy.host), "again/once")
        for blob in image.blobs:
            destination.put_blob(blob, span)
        destination.put_blob(image.blobs[0], span)

        assert sent == sum(blob.known.size for blob in image.blobs)
        assert proxy.uploaded() == 0
        assert len(proxy.seen("HEAD")) == len(image.blobs), "a positive answer is remembered"
        assert attributes(span, recorder)["result"] == "exists"


def test_a_known_blob_takes_one_upload_request(registry: DockerRegistry) -> None:
    with FaultProxy.start(registry.port) as proxy:
        RegistryDestination(client_of(proxy.host), "requests/known").put_blob(
            Memory(random_bytes(3 * MIB, 5)), upload_span()
        )
        assert [one.method for one in proxy.requests] == ["HEAD", "POST", "PUT", "HEAD"]
        assert proxy.seen("PUT")[0].headers["content-length"] == str(3 * MIB)


def test_a_growing_blob_is_sent_while_it_is_written(registry: DockerRegistry, tmp_path: Path) -> None:
    """The first bytes are with the registry before the last ones exist."""
    data = random_bytes(6 * MIB, 6)
    half = threading.Event()
    seen: list[int] = []
    with FaultProxy.start(registry.port) as proxy:

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                seen.append(event.done)
                half.set()

        recorder = Recorder([listen])
        destination = RegistryDestination(client_of(proxy.host), "requests/growing")
        spool = store_in(tmp_path).spool()
        upload = threading.Thread(target=destination.put_blob, args=(spool, upload_span(recorder)))
        with spool:
            upload.start()
            spool.write(data[: 3 * MIB])
            assert half.wait(10), "nothing was sent while the blob was being written"
            spool.write(data[3 * MIB :])
            spool.commit(layer_of(data))
        upload.join(20)

        assert [one.method for one in proxy.requests] == ["POST", "PATCH", "PUT", "HEAD"]
        assert "content-range" not in proxy.seen("PATCH")[0].headers
        assert seen == sorted(seen)
        assert seen[-1] == len(data)
        assert destination.has_blob(layer_of(data))


def test_giving_up_the_writer_gives_up_the_upload(registry: DockerRegistry, tmp_path: Path) -> None:
    class GivenUp(Exception):
        pass

    failures: list[BaseException] = []
    destination = RegistryDestination(client_of(registry.host), "requests/given-up")
    spool = store_in(tmp_path).spool()

    def upload() -> None:
        try:
            destination.put_blob(spool, upload_span())
        except GivenUp as error:
            failures.append(error)

    thread = threading.Thread(target=upload)
    with spool:
        thread.start()
        spool.write(random_bytes(MIB))
        spool.abort(GivenUp())
        thread.join(20)
    assert len(failures) == 1, "the uploader gets the writer's reason, at once and without retries"


def test_skopeo_reads_what_was_pushed(registry: DockerRegistry, client: RegistryClient, tmp_path: Path) -> None:
    image = Image.of(random_bytes(MIB, 7), random_bytes(3000, 8))
    push(RegistryDestination(client, "second/opinion"), image, "1.0")

    seen = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/second/opinion:1.0"],
            check=True,
            capture_output=True,
        ).stdout
    )
    subprocess.run(
        ["skopeo", "copy", "--src-tls-verify=false", f"docker://{registry.host}/second/opinion:1.0", f"dir:{tmp_path}"],
        check=True,
        capture_output=True,
    )

    assert seen == json.loads(image.manifest.raw)
    for blob in image.blobs:
        assert (tmp_path / blob.known.digest.removeprefix("sha256:")).read_bytes() == blob.data


def test_what_skopeo_pushed_is_read(registry: DockerRegistry, client: RegistryClient) -> None:
    """Converted to Docker schema 2 on the way."""
    image = Image.of(random_bytes(5000, 9))
    push(RegistryDestination(client, "from/oci"), image, "1")
    names = [f"docker://{registry.host}/from/{name}:1" for name in ("oci", "docker")]
    subprocess.run(
        ["skopeo", "copy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", *names],
        check=True,
        capture_output=True,
    )
    reference = Reference.parse(f"{registry.host}/from/docker:1")

    manifest = origin_of(client).manifest(reference)

    assert manifest.media_type == media.DOCKER_MANIFEST
    assert origin_of(client).resolve(reference) == manifest.descriptor


def test_manifests_by_tag_and_digest(registry: DockerRegistry, client: RegistryClient) -> None:
    image = Image.of(random_bytes(900, 10))
    destination = RegistryDestination(client, "manifests/both")
    assert destination.manifest_digest("1") is None
    push(destination, image, "1")
    tagged = Reference.parse(f"{registry.host}/manifests/both:1")
    digest = image.manifest.descriptor.digest
    origin = origin_of(client)

    assert destination.manifest_digest("1") == digest
    assert origin.manifest(tagged) == origin.manifest(tagged.at(digest)) == image.manifest
    assert origin.resolve(tagged) == origin.resolve(tagged.at(digest)) == image.manifest.descriptor
    assert registry.tags("manifests/both") == ["1"]


def test_a_manifest_without_a_tag(registry: DockerRegistry, client: RegistryClient) -> None:
    image = Image.of(random_bytes(901, 11))
    destination = RegistryDestination(client, "manifests/untagged")
    for blob in image.blobs:
        destination.put_blob(blob, upload_span())
    destination.put_manifest(image.manifest, None)

    digest = image.manifest.descriptor.digest
    assert origin_of(client).manifest(Reference(registry.host, "manifests/untagged", digest=digest)) == image.manifest
    assert registry.tags("manifests/untagged") == []


def test_a_manifest_whose_blobs_are_missing_is_refused(registry: DockerRegistry, client: RegistryClient) -> None:
    image = Image.of(random_bytes(902, 12))
    with pytest.raises(RegistryRejected, match="MANIFEST_BLOB_UNKNOWN"):
        RegistryDestination(client, "manifests/incomplete").put_manifest(image.manifest, "1")
    assert registry.tags("manifests/incomplete") == []


def test_unknown_images_blobs_and_tags(registry: DockerRegistry, client: RegistryClient) -> None:
    origin = origin_of(client)
    nowhere = Reference.parse(f"{registry.host}/no/where:1")
    with pytest.raises(ImageNotFound, match=f"{registry.host}/no/where:1"):
        origin.manifest(nowhere)
    with pytest.raises(ImageNotFound, match="no/where"):
        origin.resolve(nowhere)
    with pytest.raises(ImageNotFound, match="BLOB_UNKNOWN"):
        pulled(client, "no/where", layer_of(b"never pushed"))
    assert not RegistryDestination(client, "no/where").has_blob(layer_of(b"never pushed"))


def test_mounting_moves_no_bytes(registry: DockerRegistry) -> None:
    data = random_bytes(2 * MIB, 13)
    with FaultProxy.start(registry.port) as proxy:
        client = client_of(proxy.host)
        RegistryDestination(client, "mount/from").put_blob(Memory(data), upload_span())
        proxy.forget()
        target = RegistryDestination(client, "mount/to")

        assert not target.has_blob(layer_of(data))
        assert target.mount_blob(layer_of(data), Reference(proxy.host, "mount/from", "any"))
        assert pulled(client, "mount/to", layer_of(data)) == data
        assert proxy.uploaded() == 0


def test_a_refused_mount_becomes_the_upload(registry: DockerRegistry) -> None:
    data = random_bytes(2 * MIB, 14)
    with FaultProxy.start(registry.port) as proxy:
        target = RegistryDestination(client_of(proxy.host), "mount/none")
        assert not target.mount_blob(layer_of(data), Reference(proxy.host, "mount/nothing", "any"))
        target.put_blob(Memory(data), upload_span())
        assert len(proxy.seen("POST")) == 1, "the session the mount opened is used"


def test_no_mount_from_another_registry(client: RegistryClient) -> None:
    target = RegistryDestination(client, "mount/elsewhere")
    assert not target.mount_blob(layer_of(b"x"), Reference.parse("registry.example/other:1"))


def test_a_wrong_digest_is_found(registry: DockerRegistry, client: RegistryClient) -> None:
    """The registry's file is changed behind its back, the size stays."""
    data = random_bytes(2 * MIB, 15)
    RegistryDestination(client, "damaged/bytes").put_blob(Memory(data), upload_span())
    path = registry.blob_path(layer_of(data).digest)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(DigestMismatch, match=layer_of(data).digest):
        pulled(client, "damaged/bytes", layer_of(data))


def test_a_truncated_blob_is_found(registry: DockerRegistry) -> None:
    data = random_bytes(2 * MIB, 16)
    client = client_of(registry.host)
    RegistryDestination(client, "damaged/size").put_blob(Memory(data), upload_span())
    registry.blob_path(layer_of(data).digest).write_bytes(data[:1000])

    with pytest.raises(SizeMismatch, match=layer_of(data).digest):
        pulled(client, "damaged/size", layer_of(data))


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_than_the_descriptor_says(client: RegistryClient, difference: int) -> None:
    data = random_bytes(70000, 17)
    RegistryDestination(client, "damaged/descriptor").put_blob(Memory(data), upload_span())
    lying = Descriptor(media.OCI_LAYER_GZIP, sha256_digest(data), len(data) + difference)
    with pytest.raises(SizeMismatch):
        pulled(client, "damaged/descriptor", lying)
    assert not RegistryDestination(client, "damaged/descriptor").has_blob(lying)


def test_a_manifest_that_is_not_what_its_digest_says(registry: DockerRegistry) -> None:
    image = Image.of(random_bytes(903, 18))
    with FaultProxy.start(registry.port) as proxy:
        client = client_of(proxy.host)
        push(RegistryDestination(client, "damaged/manifest"), image, "1")
        proxy.inject(Fault("GET", "/manifests/", times=2, corrupt_answer_at=10))
        by_tag = Reference(proxy.host, "damaged/manifest", "1")
        for reference in (by_tag, by_tag.at(image.manifest.descriptor.digest)):
            with pytest.raises(DigestMismatch, match="damaged/manifest"):
                origin_of(client).manifest(reference)


def test_schema_1_is_refused_by_name(registry: DockerRegistry) -> None:
    old = b'{"schemaVersion": 1, "name": "old", "fsLayers": []}'
    headers = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    with FaultProxy.start(registry.port) as proxy:
        proxy.inject(Fault("GET", "/manifests/", answer=(200, headers, old)))
        with pytest.raises(RegistryRejected, match="schema 1"):
            origin_of(client_of(proxy.host)).manifest(Reference(proxy.host, "old/image", "1"))


def test_resolve_without_head(registry: DockerRegistry) -> None:
    """A registry that does not take HEAD, or tells no digest, is asked with GET."""
    image = Image.of(random_bytes(904, 19))
    with FaultProxy.start(registry.port) as proxy:
        client = client_of(proxy.host)
        push(RegistryDestination(client, "resolve/get"), image, "1")
        reference = Reference(proxy.host, "resolve/get", "1")
        proxy.inject(Fault("HEAD", "/manifests/", answer=(405, {}, b"")))
        assert origin_of(client).resolve(reference) == image.manifest.descriptor
        proxy.inject(Fault("HEAD", "/manifests/", headers={"Docker-Content-Digest": ""}))
        assert origin_of(client).resolve(reference) == image.manifest.descriptor
        assert len(proxy.seen("GET", "/manifests/")) == 2


def test_many_threads_share_a_client(client: RegistryClient) -> None:
    blobs = [random_bytes(200_000, seed) for seed in range(100, 112)]
    destination = RegistryDestination(client, "threads/many")
    threads = [threading.Thread(target=destination.put_blob, args=(Memory(data), upload_span())) for data in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [pulled(client, "threads/many", layer_of(data)) == data for data in blobs] == [True] * len(blobs)


def test_an_address_with_a_digest_that_is_not_there(registry: DockerRegistry, client: RegistryClient) -> None:
    digest = parse_digest("sha256:" + "1" * 64)
    with pytest.raises(ImageNotFound, match="1111"):
        origin_of(client).manifest(Reference(registry.host, "no/where", digest=digest))
