from __future__ import annotations

import errno
import http.client
import inspect
import socket
import ssl
from collections.abc import Iterator

import pytest
import requests
import urllib3

from ci_plugins.errors import ConfigError, RegistryUnreachable, SizeMismatch, VerificationError
from ci_plugins.storage.registry import transport
from ci_plugins.storage.registry.client import RegistryClient, same_origin
from ci_plugins.storage.registry.failures import transport_errors
from ci_plugins.storage.registry.retry import TransientFailure
from ci_plugins.storage.registry.transport import StreamBody, Timeouts, Transport, base_url, ca_bundle

URL = "https://r.example/v2/a/b/blobs/x?_state=s3cret"


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("r.example:8443", "https://r.example:8443"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("plain.example", "http://plain.example"),
        ("plain.example:80", "https://plain.example:80"),
    ],
)
def test_addresses(registry: str, base: str) -> None:
    assert base_url(registry, frozenset({"plain.example"})) == base


def test_paths() -> None:
    assert RegistryClient("docker.io").url("library/x", "manifests/1") == (
        "https://registry-1.docker.io/v2/library/x/manifests/1"
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x?y", "https://a/", True),
        ("https://a:443/", "https://A/", True),
        ("http://a:80/", "http://a/", True),
        ("http://a/", "https://a/", False),
        ("https://a/", "https://a:8443/", False),
        ("https://a/", "https://a.b/", False),
        ("https://a@b/", "https://a/", False),
    ],
)
def test_where_credentials_may_go(one: str, other: str, same: bool) -> None:
    assert same_origin(one, other) is same


# --- errors ---------------------------------------------------------------------------------------------------------


def kinds(module: object) -> list[type[Exception]]:
    """Every exception class of a module."""
    found = [value for _, value in inspect.getmembers(module, inspect.isclass)]
    public = [one for one in found if not one.__name__.startswith("_")]
    return [one for one in public if issubclass(one, Exception) and not issubclass(one, Warning)]


def made(kind: type[Exception]) -> Exception:
    """An instance, whatever its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("secret text with ?_state=s3cret",)
    return error


ALL = sorted(
    {*kinds(requests.exceptions), *kinds(urllib3.exceptions), *kinds(http.client), *kinds(socket), *kinds(ssl)}
    - {http.client.email.errors.MessageError},  # type: ignore[attr-defined]
    key=lambda kind: (kind.__module__, kind.__name__),
)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_no_exception_of_a_library_gets_through(kind: type[Exception]) -> None:
    with pytest.raises((TransientFailure, RegistryUnreachable)) as caught, transport_errors("GET", URL):
        raise made(kind)
    error = caught.value.error if isinstance(caught.value, TransientFailure) else caught.value
    assert isinstance(error, RegistryUnreachable | SizeMismatch)
    assert str(error).startswith("r.example:443: ")
    assert "s3cret" not in str(error)
    assert error.remedy


def test_the_list_above_is_not_empty() -> None:
    assert {requests.ConnectionError, urllib3.exceptions.ProtocolError, http.client.IncompleteRead} <= set(ALL)
    assert len(ALL) > 60


def wrapped(inner: Exception) -> Exception:
    """As requests hands over what urllib3 hands over."""
    pool = urllib3.HTTPSConnectionPool("r.example")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/v2/?_state=s3cret", inner))


def os_error(number: int) -> OSError:
    return OSError(number, "text of the system")


@pytest.mark.parametrize(
    ("error", "why", "attempts"),
    [
        (wrapped(os_error(errno.ECONNREFUSED)), "connection refused", 3),
        (wrapped(socket.gaierror(-2, "Name or service not known")), "the host name cannot be resolved", 3),
        (wrapped(urllib3.exceptions.ConnectTimeoutError()), "no connection within the time limit", 3),
        (requests.ReadTimeout(), "no answer within the time limit", None),
        (TimeoutError("timed out"), "no answer within the time limit", None),
        (os_error(errno.ECONNRESET), "the connection broke: text of the system", None),
        (urllib3.exceptions.ProtocolError("x", http.client.RemoteDisconnected("y")), "closed without an answer", None),
        (requests.ConnectionError(http.client.BadStatusLine("SSH-2.0")), "what came back is not HTTP", None),
        (urllib3.exceptions.IncompleteRead(5, 6), "the answer ended early", None),
    ],
)
def test_another_attempt_may_help(error: Exception, why: str, attempts: int | None) -> None:
    with pytest.raises(TransientFailure, match=why) as caught, transport_errors("GET", URL):
        raise error
    assert caught.value.attempts == attempts


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "self-signed certificate"
    return error


def wrong_version() -> ssl.SSLError:
    error = ssl.SSLError(1, "wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "why", "remedy"),
    [
        (wrapped(certificate_error()), "certificate is not trusted: self-signed", "REQUESTS_CA_BUNDLE"),
        (wrapped(wrong_version()), "does not speak TLS", "--insecure-registry"),
        (requests.exceptions.InvalidURL("x"), "this address cannot be used", "host name"),
    ],
)
def test_no_other_attempt_helps(error: Exception, why: str, remedy: str) -> None:
    with pytest.raises(RegistryUnreachable, match=why) as caught, transport_errors("GET", URL):
        raise error
    assert remedy in caught.value.remedy


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_sent_in_pieces_and_counted() -> None:
    heard: list[int] = []
    blocks = [bytes([number]) * 100_000 for number in range(3)]
    body = StreamBody(iter(blocks), 300_000, heard.append)
    pieces = list(body)
    assert b"".join(pieces) == b"".join(blocks)
    assert max(map(len, pieces)) <= transport._SLICE
    assert heard == [100_000, 200_000, 300_000]
    assert body.sent == 300_000


@pytest.mark.parametrize("length", [9, 11])
def test_a_stream_of_another_length_than_announced(length: int) -> None:
    body = StreamBody(iter([b"12345", b"67890"]), length, lambda sent: None)
    with pytest.raises(SizeMismatch, match=f"the {length} bytes"):
        list(body)
    assert isinstance(body.failure, VerificationError)


def test_the_source_is_let_go() -> None:
    closed: list[bool] = []

    def blocks() -> Iterator[bytes]:
        try:
            yield b"1"
            yield b"2"
        finally:
            closed.append(True)

    body = StreamBody(blocks(), None, lambda sent: None)
    assert bytes(next(iter(body))) == b"1"
    body.close()
    assert closed == [True]


@pytest.mark.parametrize(
    "failure", [OSError(errno.EIO, "disk"), ValueError("x"), RuntimeError("x"), KeyboardInterrupt()]
)
def test_what_the_source_raises_is_not_taken_for_the_network(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"1"
        raise failure

    sender = Transport(Timeouts())
    monkeypatch.setattr(sender._adapter, "send", lambda request, **settings: list(request.body))
    with pytest.raises(type(failure)) as caught:
        sender.open("PATCH", URL, {}, StreamBody(blocks(), None, lambda sent: None))
    assert caught.value is failure


# --- certificates and proxies ---------------------------------------------------------------------------------------


def test_which_certificates_are_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    system = tmp_path_factory.mktemp("certs") / "ca.crt"
    monkeypatch.setattr(transport, "_SYSTEM_CA_FILES", (str(system),))
    assert ca_bundle() is True
    system.touch()
    assert ca_bundle() == str(system)
    other = system.with_name("other.crt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"):
        ca_bundle()
    other.touch()
    assert ca_bundle() == str(other)


def test_proxies_are_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    for url in ("http://localhost:5000/", "http://127.0.0.1/", "http://[::1]:5000/", "https://internal.example/v2/"):
        assert not transport._proxies(url).get("https" if url.startswith("https") else "http")
    assert transport._proxies("https://r.example/v2/")["https"] == "http://proxy.example:3128"
