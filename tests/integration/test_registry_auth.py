"""Basic and Bearer authentication against real registries; credential helpers that really run."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ci_plugins.errors import AuthenticationFailed, ConfigError, RegistryUnreachable
from ci_plugins.oci import Reference
from ci_plugins.storage.registry import Credentials, DockerConfig, RegistryClient, RegistryDestination
from ci_plugins.storage.registry.credentials import ask_helper
from tests.faults import Fault, FaultProxy
from tests.integration.registry_samples import (
    Growing,
    Memory,
    Waits,
    client_of,
    layer_of,
    pulled,
    random_bytes,
    upload_span,
)
from tests.servers import DockerRegistry, TokenServer

USER = ("robot", "right-password")
MIB = 1 << 20


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with DockerRegistry.start(tmp_path_factory.mktemp("basic"), htpasswd=USER) as running:
        yield running


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with TokenServer.start(tmp_path / "tokens") as running:
        yield running


@pytest.fixture
def bearer(tmp_path: Path, tokens: TokenServer) -> Iterator[DockerRegistry]:
    with DockerRegistry.start(tmp_path / "bearer", token=tokens) as running:
        yield running


def robot(tokens: TokenServer, password: str | None = None) -> Credentials:
    return Credentials("a test", tokens.user[0], tokens.user[1] if password is None else password)


# --- Basic ----------------------------------------------------------------------------------------------------------


def test_basic(basic: DockerRegistry) -> None:
    client = client_of(basic.host, credentials=Credentials("a test", *USER))
    data = random_bytes(2 * MIB, 1)
    RegistryDestination(client, "basic/right").put_blob(Memory(data), upload_span())
    assert pulled(client, "basic/right", layer_of(data)) == data
    assert client.retries == 0


@pytest.mark.parametrize("kind", [Memory, Growing])
def test_basic_with_a_wrong_password(basic: DockerRegistry, kind: type[Memory]) -> None:
    waits = Waits()
    wrong = Credentials("~/.docker/config.json", USER[0], "wrong-password")
    with pytest.raises(AuthenticationFailed) as caught:
        RegistryDestination(client_of(basic.host, credentials=wrong, waits=waits), "basic/wrong").put_blob(
            kind(random_bytes(10, 2)), upload_span()
        )
    assert "robot" in str(caught.value)
    assert "~/.docker/config.json" in str(caught.value)
    assert "wrong-password" not in repr(caught.value) + str(caught.value.__cause__)
    assert caught.value.exit_code == 41
    assert not waits, "asking again with the same password helps nobody"


def test_basic_without_credentials(basic: DockerRegistry, tmp_path: Path) -> None:
    client = RegistryClient(basic.host, credentials=DockerConfig.load(tmp_path))
    with pytest.raises(AuthenticationFailed, match=rf"no credentials.*{basic.host}.*config\.json"):
        RegistryDestination(client, "basic/none").manifest_digest("1")


def test_credentials_of_a_docker_config(basic: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = base64.b64encode(":".join(USER).encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {basic.host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert RegistryDestination(RegistryClient(basic.host), "basic/file").manifest_digest("1") is None


def test_a_broken_docker_config_matters_only_when_credentials_do(
    basic: DockerRegistry, registry: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert RegistryDestination(RegistryClient(registry.host), "x/y").manifest_digest("1") is None
    with pytest.raises(ConfigError, match=r"config\.json"):
        RegistryDestination(RegistryClient(basic.host), "x/y").manifest_digest("1")


# --- credential helpers ---------------------------------------------------------------------------------------------


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH for docker-credential-… programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def write_helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_helper_is_asked_for_the_registry(basic: DockerRegistry, helpers: Path, tmp_path: Path) -> None:
    answer = json.dumps({"ServerURL": "", "Username": USER[0], "Secret": USER[1]})
    write_helper(helpers, "works", f'[ "$1 $(cat)" = "get {basic.host}" ] || exit 1\necho \'{answer}\'')
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {basic.host: "works"}, "credsStore": "other"}))
    client = RegistryClient(basic.host, credentials=DockerConfig.load(tmp_path))
    assert RegistryDestination(client, "basic/helper").manifest_digest("1") is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", "credentials not found in native keychain"),
        ("exit 7", "exit code 7"),
        ("echo 'not JSON'", "did not answer with a user name and a secret"),
        ('echo \'{"Username": "u"}\'', "did not answer with a user name and a secret"),
    ],
)
def test_a_helper_that_has_none_says_why(helpers: Path, script: str, why: str) -> None:
    write_helper(helpers, "fails", script)
    found = ask_helper("fails", "registry.example")
    assert found.anonymous
    assert "docker-credential-fails" in found.source
    assert why in found.source


def test_a_missing_helper_is_named_when_access_is_refused(basic: DockerRegistry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "not-installed-anywhere"}')
    client = RegistryClient(basic.host, credentials=DockerConfig.load(tmp_path))
    with pytest.raises(AuthenticationFailed, match="docker-credential-not-installed-anywhere is not installed"):
        RegistryDestination(client, "basic/missing").manifest_digest("1")


def test_a_helper_may_have_an_identity_token(helpers: Path) -> None:
    write_helper(helpers, "token", 'echo \'{"Username": "<token>", "Secret": "abc"}\'')
    found = ask_helper("token", "registry.example")
    assert (found.identity_token, found.username) == ("abc", "")
    assert "abc" not in repr(found) + str(found)


# --- Bearer ---------------------------------------------------------------------------------------------------------


def test_bearer_with_a_password(bearer: DockerRegistry, tokens: TokenServer) -> None:
    client = client_of(bearer.host, credentials=robot(tokens))
    data = random_bytes(2 * MIB, 3)
    RegistryDestination(client, "bearer/right").put_blob(Memory(data), upload_span())
    assert pulled(client, "bearer/right", layer_of(data)) == data

    asked = [(method, parameters["scope"], user) for method, parameters, user in tokens.requests]
    assert asked == [
        ("GET", ["repository:bearer/right:pull,push"], "robot"),
        ("GET", ["repository:bearer/right:pull"], "robot"),
    ], "one token a scope"


def test_bearer_with_an_identity_token(bearer: DockerRegistry, tokens: TokenServer) -> None:
    client = client_of(bearer.host, credentials=Credentials("a test", identity_token=tokens.refresh_token))
    RegistryDestination(client, "bearer/refresh").put_blob(Memory(random_bytes(10, 4)), upload_span())
    assert [method for method, _, _ in tokens.requests] == ["POST"]


def test_threads_share_a_token(bearer: DockerRegistry, tokens: TokenServer) -> None:
    destination = RegistryDestination(client_of(bearer.host, credentials=robot(tokens)), "bearer/threads")
    blobs = [Memory(random_bytes(1000, seed)) for seed in range(20, 28)]
    threads = [threading.Thread(target=destination.put_blob, args=(blob, upload_span())) for blob in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(destination.has_blob(blob.known) for blob in blobs)
    assert len(tokens.requests) == 1


def test_bearer_with_a_wrong_password(bearer: DockerRegistry, tokens: TokenServer) -> None:
    client = client_of(bearer.host, credentials=robot(tokens, password="wrong-password"))
    with pytest.raises(AuthenticationFailed) as caught:
        RegistryDestination(client, "bearer/wrong").put_blob(Memory(b"x"), upload_span())
    assert "tried as robot (from a test)" in str(caught.value)
    assert "incorrect username or password" in str(caught.value)
    assert "wrong-password" not in str(caught.value)


def test_anonymous_may_pull_but_not_push(bearer: DockerRegistry, tokens: TokenServer) -> None:
    data = random_bytes(5000, 5)
    with_rights = client_of(bearer.host, credentials=robot(tokens))
    RegistryDestination(with_rights, "bearer/public").put_blob(Memory(data), upload_span())
    anonymous = client_of(bearer.host)

    assert pulled(anonymous, "bearer/public", layer_of(data)) == data
    with pytest.raises(AuthenticationFailed, match=r"bearer/public:pull,push: no credentials \(none given\)"):
        RegistryDestination(anonymous, "bearer/public").put_blob(Memory(b"other"), upload_span())


def test_mounting_asks_for_both_repositories(bearer: DockerRegistry, tokens: TokenServer) -> None:
    client = client_of(bearer.host, credentials=robot(tokens))
    data = random_bytes(5000, 6)
    RegistryDestination(client, "bearer/from").put_blob(Memory(data), upload_span())
    assert RegistryDestination(client, "bearer/to").mount_blob(layer_of(data), Reference(bearer.host, "bearer/from"))
    assert ["repository:bearer/from:pull", "repository:bearer/to:pull,push"] in [
        parameters["scope"] for _, parameters, _ in tokens.requests
    ]


@pytest.mark.parametrize("kind", [Memory, Growing])
def test_a_token_that_expires_during_an_upload_is_renewed(
    bearer: DockerRegistry, tokens: TokenServer, kind: type[Memory]
) -> None:
    """The registry answers 401 to the request that carries the bytes; they are sent again with a new token."""
    data = random_bytes(6 * MIB, 7)
    carries = "PATCH" if kind is Growing else "PUT"
    challenge = {"WWW-Authenticate": f'Bearer realm="{tokens.realm}",service="{tokens.service}",scope="x:y:z"'}
    with FaultProxy.start(bearer.port) as proxy:
        waits = Waits()
        client = client_of(proxy.host, credentials=robot(tokens), waits=waits)
        proxy.inject(Fault(carries, "/blobs/uploads/", answer=(401, challenge, b"")))
        RegistryDestination(client, "bearer/expires").put_blob(kind(data), upload_span())

        assert pulled(client_of(bearer.host, credentials=robot(tokens)), "bearer/expires", layer_of(data)) == data
        assert proxy.seen(carries)[0].status == 401
        sent = {one.headers["authorization"] for one in proxy.seen("PATCH") + proxy.seen("PUT")}
        assert len(sent) == 2
        assert waits == [0.0], "a new token needs no wait"


class Slow(Growing):
    """Takes longer to write than its first token lives."""

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        for block in super().blocks(offset):
            yield block
            time.sleep(0.6)


def test_a_token_that_expires_while_bytes_are_sent(bearer: DockerRegistry, tokens: TokenServer) -> None:
    """For real: the registry itself finds it expired (it allows 60 seconds more than the token says)."""
    tokens.lifetimes[:] = [-58, 300]
    data = random_bytes(6 * MIB, 9)
    with FaultProxy.start(bearer.port) as proxy:
        client = client_of(proxy.host, credentials=robot(tokens))
        RegistryDestination(client, "bearer/slow").put_blob(Slow(data), upload_span())

        commits = [one.status for one in proxy.seen("PUT")]
        assert commits == [401, 201]
        assert proxy.uploaded() == len(data), "only the commit is repeated"


def test_a_token_server_that_is_gone(tmp_path: Path) -> None:
    with (
        TokenServer.start(tmp_path / "tokens") as tokens,
        DockerRegistry.start(tmp_path / "r", token=tokens) as running,
    ):
        client = client_of(running.host, credentials=robot(tokens))
        gone = tokens.port
        client_again = client_of(running.host, credentials=robot(tokens))
        assert RegistryDestination(client, "x/y").manifest_digest("1") is None
        tokens.stop()
        with pytest.raises(RegistryUnreachable, match=f"127.0.0.1:{gone}: connection refused"):
            RegistryDestination(client_again, "x/y").manifest_digest("1")


# --- where credentials must not go ----------------------------------------------------------------------------------


class _Elsewhere(BaseHTTPRequestHandler):
    """Object storage: takes what it is sent, remembers the headers."""

    protocol_version = "HTTP/1.1"
    data = b""
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.server.seen.append({k.lower(): v for k, v in self.headers.items()})  # type: ignore[attr-defined]
        data: bytes = self.server.data  # type: ignore[attr-defined]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def storage() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_redirect_to_object_storage_carries_no_credentials(
    basic: DockerRegistry, storage: ThreadingHTTPServer
) -> None:
    data = random_bytes(3 * MIB, 8)
    storage.data = data  # type: ignore[attr-defined]
    location = f"http://localhost:{storage.server_address[1]}/bucket/blob?X-Signature=s3cret"
    with FaultProxy.start(basic.port) as proxy:
        proxy.inject(Fault("GET", "/blobs/", answer=(307, {"Location": location}, b""), times=2))
        client = client_of(proxy.host, credentials=Credentials("a test", *USER))
        RegistryDestination(client, "basic/redirect").manifest_digest("1")

        assert pulled(client, "basic/redirect", layer_of(data)) == data
        assert proxy.seen("GET", "/blobs/")[0].headers["authorization"].startswith("Basic ")
        seen = storage.seen  # type: ignore[attr-defined]
        assert len(seen) == 1
        assert "authorization" not in seen[0]


def test_signed_addresses_stay_out_of_messages(basic: DockerRegistry) -> None:
    location = "http://127.0.0.1:9/bucket/blob?X-Signature=s3cret"
    with FaultProxy.start(basic.port) as proxy:
        proxy.inject(Fault("GET", "/blobs/", answer=(307, {"Location": location}, b""), times=9))
        client = client_of(proxy.host, credentials=Credentials("a test", *USER))
        with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:9") as caught:
            pulled(client, "basic/redirect", layer_of(b"x"))
    assert "s3cret" not in str(caught.value)


def test_a_redirect_that_never_ends(basic: DockerRegistry) -> None:
    with FaultProxy.start(basic.port) as proxy:
        proxy.inject(Fault("GET", "/blobs/", answer=(307, {"Location": "here"}, b""), times=99))
        proxy.inject(Fault("GET", "here", answer=(307, {"Location": "here"}, b""), times=99))
        client = client_of(proxy.host, credentials=Credentials("a test", *USER))
        with pytest.raises(Exception, match="more than 5 redirects"):
            pulled(client, "basic/redirect", layer_of(b"x"))
