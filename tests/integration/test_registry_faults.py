"""What breaks on the way, and what the client makes of it. A real registry, and a proxy that breaks things."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from ci_plugins.errors import (
    AuthenticationFailed,
    CiPluginsError,
    ConfigError,
    DigestMismatch,
    RegistryRejected,
    RegistryUnavailable,
    RegistryUnreachable,
    SizeMismatch,
)
from ci_plugins.oci import Reference, sha256_digest
from ci_plugins.serve import create_server
from ci_plugins.storage.registry import RegistryDestination, Retry, Timeouts
from tests.faults import Fault, FaultProxy
from tests.integration.registry_samples import (
    Growing,
    Image,
    Memory,
    Waits,
    client_of,
    layer_of,
    origin_of,
    pulled,
    random_bytes,
    upload_span,
)
from tests.servers import DockerRegistry, free_port

MIB = 1 << 20
UPLOADS = "/blobs/uploads/"
BOTH = pytest.mark.parametrize("kind", [Memory, Growing])


@pytest.fixture
def proxy(registry: DockerRegistry) -> Iterator[FaultProxy]:
    with FaultProxy.start(registry.port) as running:
        yield running


@pytest.fixture
def resuming(tmp_path: Path) -> Iterator[FaultProxy]:
    """In front of a registry that keeps what has arrived of a broken upload: docker-registry does not."""
    server = create_server(tmp_path / "served")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with FaultProxy.start(server.port) as running:
        yield running
    server.shutdown()
    thread.join()


def carrier(kind: type[Memory]) -> str:
    """The method of the request that carries the bytes."""
    return "PATCH" if kind is Growing else "PUT"


def put(proxy: FaultProxy, data: bytes, kind: type[Memory], waits: Waits, attempts: int = 5) -> Memory:
    """Upload through the proxy and read back past it."""
    blob = kind(data)
    client = client_of(proxy.host, waits=waits, attempts=attempts)
    RegistryDestination(client, "faults/blob").put_blob(blob, upload_span())
    assert pulled(client_of(f"127.0.0.1:{proxy.upstream}"), "faults/blob", layer_of(data)) == data
    return blob


# --- uploads --------------------------------------------------------------------------------------------------------


@BOTH
def test_an_upload_cut_in_the_middle(proxy: FaultProxy, kind: type[Memory]) -> None:
    """docker-registry forgets a broken upload, so it starts again in a new one."""
    data = random_bytes(8 * MIB, 31)
    proxy.inject(Fault(carrier(kind), UPLOADS, cut_request_after=3 * MIB))
    waits = Waits()
    blob = put(proxy, data, kind, waits)
    assert len(waits) == 1
    assert len(proxy.seen("POST")) == 2
    assert blob.read_from == [0, 0]


@BOTH
def test_an_upload_is_taken_up_where_it_broke(resuming: FaultProxy, kind: type[Memory]) -> None:
    data = random_bytes(8 * MIB, 32)
    resuming.inject(Fault(carrier(kind), UPLOADS, cut_request_after=3 * MIB))
    waits = Waits()
    blob = put(resuming, data, kind, waits)

    assert len(waits) == 1
    assert len(resuming.seen("POST")) == 1
    assert blob.read_from[0] == 0
    assert 2 * MIB < blob.read_from[1] <= 3 * MIB
    assert resuming.uploaded() <= len(data) + MIB


def test_an_upload_that_breaks_again_and_again_goes_on_while_it_comes_forward(resuming: FaultProxy) -> None:
    """More failures than the policy allows in a row, but each time some of it has arrived."""
    data = random_bytes(12 * MIB, 33)
    resuming.inject(*[Fault("PATCH", UPLOADS, cut_request_after=MIB + 5) for _ in range(8)])
    waits = Waits()
    put(resuming, data, Growing, waits, attempts=3)
    assert len(waits) == 8
    assert max(waits) <= 0.25, "each is the first failure since the last progress"


@BOTH
def test_an_upload_that_never_comes_forward_ends(proxy: FaultProxy, kind: type[Memory]) -> None:
    proxy.inject(*[Fault(method, UPLOADS, cut_request_after=1000, times=99) for method in ("PUT", "PATCH")])
    waits = Waits()
    with pytest.raises(RegistryUnreachable, match=f"{proxy.host}: the connection broke"):
        put(proxy, random_bytes(2 * MIB, 34), kind, waits, attempts=4)
    assert len(waits) == 3
    assert waits[0] < waits[2]


@BOTH
@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_an_upload_the_registry_is_too_busy_for(proxy: FaultProxy, kind: type[Memory], status: int) -> None:
    waits = Waits()
    proxy.inject(Fault(carrier(kind), UPLOADS, answer=(status, {"Retry-After": "7"}, b"busy")))
    put(proxy, random_bytes(2 * MIB, status), kind, waits)
    assert waits == [7.0]
    assert len(proxy.seen("POST")) == 1, "the upload itself is still good"


def test_the_wait_may_be_a_date(proxy: FaultProxy) -> None:
    waits = Waits()
    proxy.inject(Fault("POST", answer=(503, {"Retry-After": formatdate(time.time() + 30, usegmt=True)}, b"")))
    put(proxy, random_bytes(1000, 35), Memory, waits)
    assert 25 < waits[0] <= 30


def test_a_registry_that_stays_busy(proxy: FaultProxy) -> None:
    heard: list[Retry] = []
    waits = Waits()
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit reached"}]}'
    proxy.inject(Fault("HEAD", answer=(429, {"Retry-After": "86400"}, body), times=99))
    proxy.inject(Fault("GET", answer=(429, {"Retry-After": "86400"}, body), times=99))
    client = client_of(proxy.host, waits=waits, attempts=3, on_retry=heard.append)
    with pytest.raises(RegistryUnavailable, match="429 Injected: TOOMANYREQUESTS: pull rate limit reached") as caught:
        origin_of(client).manifest(Reference(proxy.host, "x/y", "1"))
    assert caught.value.exit_code == 44
    assert waits == [60.0, 60.0], "a whole day is cut to a minute"
    assert client.retries == len(heard) == 2
    assert [retry.attempt for retry in heard] == [1, 2]


@BOTH
def test_the_answer_to_the_commit_is_lost(proxy: FaultProxy, kind: type[Memory]) -> None:
    """The blob is there; nothing is sent again."""
    data = random_bytes(3 * MIB, 360 + len(kind.__name__))
    proxy.inject(Fault("PUT", UPLOADS, lose_answer=True))
    waits = Waits()
    put(proxy, data, kind, waits)
    assert proxy.uploaded() == len(data)
    assert len(waits) == 1


@BOTH
def test_bytes_changed_on_the_way_are_sent_again(proxy: FaultProxy, kind: type[Memory]) -> None:
    data = random_bytes(3 * MIB, 370 + len(kind.__name__))
    proxy.inject(Fault(carrier(kind), UPLOADS, corrupt_request_at=MIB))
    put(proxy, data, kind, Waits())
    assert proxy.uploaded() == 2 * len(data)


def test_bytes_that_always_change_on_the_way(proxy: FaultProxy) -> None:
    proxy.inject(Fault("PUT", UPLOADS, corrupt_request_at=5, times=99))
    with pytest.raises(DigestMismatch, match="arrived changed"):
        put(proxy, random_bytes(3000, 38), Memory, Waits())


def test_a_blob_too_large_for_one_put_goes_by_patch(proxy: FaultProxy) -> None:
    data = random_bytes(3 * MIB, 39)
    proxy.inject(Fault("PUT", UPLOADS, answer=(413, {}, b"")))
    put(proxy, data, Memory, Waits())
    assert [one.request_bytes for one in proxy.seen("PATCH")] == [len(data)]
    assert proxy.seen("PATCH")[0].headers["content-length"] == str(len(data))


def test_a_range_that_is_refused_is_asked_for(resuming: FaultProxy) -> None:
    data = random_bytes(3 * MIB, 40)
    resuming.inject(Fault("PATCH", UPLOADS, answer=(416, {"Range": "0-99"}, b"")))
    put(resuming, data, Growing, Waits())
    assert len(resuming.seen("GET", UPLOADS)) == 1
    assert len(resuming.seen("POST")) == 1


def test_a_session_that_is_gone_is_opened_again(proxy: FaultProxy) -> None:
    body = b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}'
    proxy.inject(Fault("PATCH", UPLOADS, answer=(404, {}, body)))
    put(proxy, random_bytes(3 * MIB, 41), Growing, Waits())
    assert len(proxy.seen("POST")) == 2


@BOTH
def test_an_upload_follows_where_it_is_sent(proxy: FaultProxy, kind: type[Memory]) -> None:
    """307 to a request that carries a stream: the rest goes to the new address."""
    data = random_bytes(2 * MIB, 420 + len(kind.__name__))
    proxy.inject(Fault("POST", UPLOADS, answer=(307, {"Location": "/v2/faults/blob/blobs/uploads/?moved=1"}, b"")))
    put(proxy, data, kind, Waits())
    assert [one.path.endswith("moved=1") for one in proxy.seen("POST")] == [False, True]


def test_a_refusal_is_not_tried_again(proxy: FaultProxy) -> None:
    waits = Waits()
    body = b'{"errors":[{"code":"NAME_INVALID","message":"repository must be created first"}]}'
    proxy.inject(Fault("POST", answer=(400, {}, body), times=99))
    with pytest.raises(RegistryRejected, match="NAME_INVALID: repository must be created first") as caught:
        put(proxy, b"x", Memory, waits)
    assert not waits
    assert f"POST http://{proxy.host}/v2/faults/blob/blobs/uploads/" in str(caught.value)


def test_missing_rights_are_not_tried_again(proxy: FaultProxy) -> None:
    waits = Waits()
    proxy.inject(Fault("POST", answer=(403, {}, b'{"errors":[{"code":"DENIED","message":"read only"}]}'), times=99))
    with pytest.raises(AuthenticationFailed, match="DENIED: read only"):
        put(proxy, b"x", Memory, waits)
    assert not waits


def test_a_registry_that_stores_something_else(proxy: FaultProxy) -> None:
    other = sha256_digest(b"something else")
    proxy.inject(Fault("PUT", UPLOADS, headers={"Docker-Content-Digest": other}))
    with pytest.raises(DigestMismatch, match=other):
        put(proxy, random_bytes(1000, 43), Memory, Waits())


def test_a_blob_that_is_not_whole_after_its_upload(proxy: FaultProxy) -> None:
    data = random_bytes(1000, 44)
    proxy.inject(Fault("HEAD", "/blobs/", answer=(404, {}, b"")))
    proxy.inject(Fault("HEAD", "/blobs/", headers={"Content-Length": "999"}))
    with pytest.raises(SizeMismatch, match="999 bytes in the registry, not 1000"):
        put(proxy, data, Memory, Waits())


def test_nothing_is_published_when_a_blob_fails(proxy: FaultProxy, registry: DockerRegistry) -> None:
    image = Image.of(random_bytes(MIB, 45), random_bytes(2 * MIB, 46))
    client = client_of(proxy.host, attempts=2)
    destination = RegistryDestination(client, "faults/half")
    destination.put_blob(image.blobs[0], upload_span())
    proxy.inject(Fault("PUT", UPLOADS, cut_request_after=1000, times=2))
    with pytest.raises(RegistryUnreachable):
        destination.put_blob(image.blobs[1], upload_span())

    assert registry.tags("faults/half") == []
    with pytest.raises(RegistryRejected, match="MANIFEST_BLOB_UNKNOWN"):
        destination.put_manifest(image.manifest, "1")
    assert registry.tags("faults/half") == []

    proxy.forget()
    again = RegistryDestination(client_of(proxy.host), "faults/half")
    for blob in image.blobs:
        again.put_blob(blob, upload_span())
    again.put_manifest(image.manifest, "1")
    assert proxy.uploaded() == sum(blob.known.size for blob in image.blobs[1:]), "the first blob is not sent twice"
    assert registry.tags("faults/half") == ["1"]


def test_the_manifest_is_put_again(proxy: FaultProxy, registry: DockerRegistry) -> None:
    image = Image.of(random_bytes(1000, 47))
    waits = Waits()
    destination = RegistryDestination(client_of(proxy.host, waits=waits), "faults/manifest")
    for blob in image.blobs:
        destination.put_blob(blob, upload_span())
    proxy.inject(Fault("PUT", "/manifests/", lose_answer=True), Fault("PUT", "/manifests/", answer=(502, {}, b"")))
    destination.put_manifest(image.manifest, "1")
    assert len(waits) == 2
    assert destination.manifest_digest("1") == image.manifest.descriptor.digest

    proxy.inject(Fault("PUT", "/manifests/", headers={"Docker-Content-Digest": sha256_digest(b"other")}))
    with pytest.raises(DigestMismatch, match="stored the manifest"):
        destination.put_manifest(image.manifest, "2")


# --- downloads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(proxy: FaultProxy) -> bytes:
    """A blob that is in the repository faults/pull."""
    data = random_bytes(8 * MIB, 51)
    RegistryDestination(client_of(f"127.0.0.1:{proxy.upstream}"), "faults/pull").put_blob(Memory(data), upload_span())
    return data


@pytest.mark.parametrize("politely", [False, True])
def test_a_download_is_taken_up_where_it_broke(proxy: FaultProxy, stored: bytes, politely: bool) -> None:
    cut = 3 * MIB + 77
    proxy.inject(*[Fault("GET", "/blobs/", cut_answer_after=cut, politely=politely) for _ in range(2)])
    waits = Waits()

    assert pulled(client_of(proxy.host, waits=waits), "faults/pull", layer_of(stored)) == stored

    gets = proxy.seen("GET", "/blobs/")
    assert [one.headers.get("range", "")[:6] for one in gets] == ["", "bytes=", "bytes="]
    assert sum(one.answer_bytes for one in gets) < len(stored) + 2 * MIB
    assert len(waits) == 2


def test_a_registry_without_ranges(proxy: FaultProxy, stored: bytes) -> None:
    """It sends all of it again; what was given out is not given out twice."""
    proxy.inject(Fault("GET", "/blobs/", cut_answer_after=3 * MIB))
    proxy.inject(Fault("GET", "/blobs/", answer=(200, {}, stored)))
    assert pulled(client_of(proxy.host), "faults/pull", layer_of(stored)) == stored


def test_a_registry_that_sends_another_range(proxy: FaultProxy, stored: bytes) -> None:
    proxy.inject(Fault("GET", "/blobs/", cut_answer_after=3 * MIB))
    proxy.inject(Fault("GET", "/blobs/", headers={"Content-Range": f"bytes 8000000-{len(stored) - 1}/{len(stored)}"}))
    with pytest.raises(CiPluginsError, match="other bytes"):
        pulled(client_of(proxy.host), "faults/pull", layer_of(stored))


def test_a_download_that_always_ends_early(proxy: FaultProxy, stored: bytes) -> None:
    proxy.inject(Fault("GET", "/blobs/", cut_answer_after=MIB, politely=True))
    proxy.inject(Fault("GET", "/blobs/", cut_answer_after=0, politely=True, times=99))
    waits = Waits()
    with pytest.raises(SizeMismatch, match="ended early"):
        pulled(client_of(proxy.host, waits=waits, attempts=4), "faults/pull", layer_of(stored))
    assert len(waits) == 3


def test_wrong_bytes(proxy: FaultProxy, stored: bytes) -> None:
    waits = Waits()
    proxy.inject(Fault("GET", "/blobs/", corrupt_answer_at=5 * MIB))
    with pytest.raises(DigestMismatch, match=layer_of(stored).digest):
        pulled(client_of(proxy.host, waits=waits), "faults/pull", layer_of(stored))
    assert not waits


def test_a_reader_that_stops_early_holds_nothing(proxy: FaultProxy, stored: bytes) -> None:
    client = client_of(proxy.host)
    for _ in range(3):
        blocks = origin_of(client).blob(Reference(proxy.host, "faults/pull", "x"), layer_of(stored))
        assert next(blocks) == stored[:MIB]
        blocks.close()  # type: ignore[attr-defined]
    assert pulled(client, "faults/pull", layer_of(stored)) == stored


def test_a_slow_registry_is_given_up_and_asked_again(proxy: FaultProxy, stored: bytes) -> None:
    proxy.inject(Fault("GET", "/blobs/", delay=1.5))
    client = client_of(proxy.host, timeouts=Timeouts(read=0.4))
    assert pulled(client, "faults/pull", layer_of(stored)) == stored
    assert client.retries == 1
    proxy.inject(Fault("GET", "/blobs/", delay=1.5, times=9))
    with pytest.raises(RegistryUnreachable, match="no answer within the time limit"):
        pulled(client_of(proxy.host, timeouts=Timeouts(read=0.2), attempts=2), "faults/pull", layer_of(stored))


# --- connections ----------------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    port = free_port()
    waits = Waits()
    with pytest.raises(RegistryUnreachable) as caught:
        put_to(f"localhost:{port}", waits)
    assert f"localhost:{port}: connection refused" in str(caught.value)
    assert caught.value.exit_code == 40
    assert "--insecure-registry" in caught.value.remedy
    assert len(waits) == 2, "a wrong address is told soon"


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(RegistryUnreachable, match=r"no-such-host\.invalid:443: the host name cannot be resolved"):
        put_to("no-such-host.invalid", Waits())


def put_to(host: str, waits: Waits, insecure: frozenset[str] = frozenset()) -> None:
    client = client_of(host, waits=waits, insecure=insecure, timeouts=Timeouts(connect=5, read=5))
    RegistryDestination(client, "x/y").put_blob(Memory(b"x"), upload_span())


def test_tls_to_a_plain_port(registry: DockerRegistry) -> None:
    waits = Waits()
    with pytest.raises(RegistryUnreachable, match=f"{registry.not_loopback}: it does not speak TLS") as caught:
        put_to(registry.not_loopback, waits)
    assert "--insecure-registry" in caught.value.remedy
    assert not waits
    put_to(registry.not_loopback, waits, insecure=frozenset({registry.not_loopback}))


def test_plain_http_to_a_tls_port(tmp_path: Path) -> None:
    with DockerRegistry.start(tmp_path / "tls", tls=True) as running:
        with pytest.raises(RegistryRejected, match="400 Bad Request: Client sent an HTTP request to an HTTPS server"):
            origin_of(client_of(running.host)).manifest(Reference(running.host, "x/y", "1"))
        with pytest.raises(RegistryRejected, match="400 Bad Request") as caught:
            put_to(running.host, Waits())
        assert "may want HTTPS" in caught.value.remedy


def test_tls_with_a_certificate_that_is_or_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DockerRegistry.start(tmp_path / "tls", tls=True) as running:
        waits = Waits()
        with pytest.raises(RegistryUnreachable, match="certificate is not trusted") as caught:
            put_to(running.not_loopback, waits)
        assert "REQUESTS_CA_BUNDLE" in caught.value.remedy
        assert not waits
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca_file))
        put_to(running.not_loopback, waits)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
        with pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"):
            put_to(running.not_loopback, waits)


def test_something_that_is_no_http_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        try:
            with pytest.raises(RegistryUnreachable, match="not HTTP"):
                put_to(f"127.0.0.1:{listener.getsockname()[1]}", Waits())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_loopback_never_goes_through_a_proxy(registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for host in (registry.host, registry.localhost):
        put_to(host, Waits())
    with pytest.raises(RegistryUnreachable, match="proxy"):
        put_to("registry.example", Waits(), insecure=frozenset({"registry.example"}))


def test_a_registry_that_restarts(tmp_path: Path) -> None:
    """Connections of the pool are dead then; nobody notices."""
    data = random_bytes(MIB, 61)
    with DockerRegistry.start(tmp_path / "r") as first, FaultProxy.start(first.port) as proxy:
        client = client_of(proxy.host)
        RegistryDestination(client, "x/y").put_blob(Memory(data), upload_span())
        first.stop()
        with DockerRegistry.start(tmp_path / "r") as second:
            proxy.upstream = second.port
            assert pulled(client, "x/y", layer_of(data)) == data
