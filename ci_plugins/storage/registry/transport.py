"""One HTTP request to whatever host, and its errors in our words. No retries, no authentication here.

Every exception of requests, urllib3, http.client and the socket is translated in one place, `transport_errors`.
Thread safe: connections are taken from urllib3's pools and given back.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3

from ci_plugins import __version__
from ci_plugins.errors import ConfigError, RegistryError, RegistryUnreachable, SizeMismatch
from ci_plugins.oci import is_loopback
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.registry.answers import Answer, without_query
from ci_plugins.storage.registry.retry import TransientFailure

#: The distribution spec lets registries limit manifests to 4 MiB; no other answer that is kept whole is larger.
LARGEST_ANSWER = 4 << 20
#: Bytes given to one `send`: small enough to stay in the processor's cache, and for its timeout on a slow line.
_SLICE = 64 << 10
#: Connections kept a host. More threads than this still work; theirs are closed after use.
_POOL = 32
#: A host that does not take the connection is most likely wrong or down: people should not wait long to hear it.
_CONNECT_ATTEMPTS = 3
_SYSTEM_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. `read` is the longest silence of the other side while it should answer or send."""

    connect: float = 30.0
    read: float = 120.0


class StreamBody:
    """A request body that is read once, block by block. `length` in bytes is None while unknown (chunked then).

    `sent` counts the bytes handed to the socket, the most that can have arrived. `on_sent` hears of it once a block.
    `failure` is what the source of the bytes raised, told apart from what the network raised.
    """

    def __init__(self, blocks: Iterator[bytes], length: int | None, on_sent: Callable[[int], None]) -> None:
        self._blocks = blocks
        self._on_sent = on_sent
        self.length = length
        self.sent = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[memoryview]:
        while (block := self._next()) is not None:
            view = memoryview(block)
            for start in range(0, len(view), _SLICE):
                piece = view[start : start + _SLICE]
                self.sent += len(piece)
                yield piece
            self._on_sent(self.sent)

    def _next(self) -> bytes | None:
        try:
            block = next(self._blocks, None)
            missing = None if self.length is None else self.length - self.sent
            if missing is not None and (missing != 0 if block is None else len(block) > missing):
                # Sending less would leave the registry waiting for the rest.
                raise SizeMismatch(f"a blob that is uploaded does not have the {self.length} bytes it should have")
            return block
        except BaseException as error:
            self.failure = error
            raise

    def close(self) -> None:
        """Let go of the source, whether it was read to its end or not."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


class Transport:
    """Sends requests: never through a proxy to loopback addresses, else through the environment's."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._adapter = _Adapter(pool_connections=8, pool_maxsize=_POOL)
        self._verify = ca_bundle()

    def open(
        self, method: str, url: str, headers: Mapping[str, str] = {}, body: bytes | StreamBody | None = None
    ) -> requests.Response:
        """Send, and return when the headers of the answer are here. Its body is not read: close it.

        Raises TransientFailure, RegistryUnreachable; whatever the body's source raised.
        """
        with transport_errors(method, url, body):
            request = requests.PreparedRequest()
            request.prepare(method, url, headers={"User-Agent": f"ci-plugins/{__version__}", **headers})
            if isinstance(body, StreamBody):
                request.headers.pop("Content-Length", None)
                if body.length is None:
                    request.headers["Transfer-Encoding"] = "chunked"
                else:
                    request.headers["Content-Length"] = str(body.length)
                request.body = cast(Any, body)  # requests sends any iterable
            elif body is not None:
                request.prepare_body(body, None)
            return self._adapter.send(
                request,
                stream=True,
                timeout=(self._timeouts.connect, self._timeouts.read),
                verify=self._verify,
                proxies=_proxies(str(request.url)),
            )

    def read(self, method: str, url: str, response: requests.Response) -> Answer:
        """The whole of a small answer; its connection goes back to the pool."""
        with response, transport_errors(method, url):
            body = response.raw.read(LARGEST_ANSWER + 1, decode_content=True) or b""
            if len(body) > LARGEST_ANSWER:
                raise RegistryError(
                    f"{method} {without_query(url)} was answered with more than {LARGEST_ANSWER >> 20} MiB",
                    remedy="This is no manifest: check the address of the registry and the name of the image.",
                )
        return Answer(method, url, response.status_code, response.reason or "", response.headers, body)

    def blocks(self, method: str, url: str, response: requests.Response) -> Iterator[bytes]:
        """The body of an answer as it comes, as the registry stores it (no content decoding)."""
        with response:
            while True:
                with transport_errors(method, url):
                    block = response.raw.read(BLOCK, decode_content=False)
                if not block:
                    return
                yield block

    def close(self) -> None:
        self._adapter.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter over connections that read and write in large blocks."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **settings: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=BLOCK, **settings)


def base_url(registry: str, insecure: frozenset[str] = frozenset()) -> str:
    """Where a registry's API is: `scheme://host[:port]`. Loopback and insecure registries are plain HTTP."""
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    return f"{'http' if is_loopback(registry) or registry in insecure else 'https'}://{host}"


def ca_bundle() -> str | bool:
    """The file of trusted certificates: as the environment says, else the system's, else the one requests carries."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(variable):
            if not os.path.exists(path):
                raise ConfigError(f"{variable} names a file of certificates that is not there: {path}")
            return path
    return next((path for path in _SYSTEM_CA_FILES if os.path.exists(path)), True)


def _proxies(url: str) -> dict[str, str]:
    # netloc, not hostname: is_loopback knows "[::1]", which hostname strips of its brackets
    if is_loopback(urlsplit(url).netloc.rpartition("@")[2]):
        return {}
    return dict(requests.utils.get_environ_proxies(url, no_proxy=None))


# --- errors ---------------------------------------------------------------------------------------------------------


@contextmanager
def transport_errors(method: str, url: str, body: bytes | StreamBody | None = None) -> Iterator[None]:
    """Translate what the HTTP libraries and the network raise: the only place that knows their exceptions.

    Raises TransientFailure (around RegistryUnreachable, SizeMismatch) where another attempt may help, else
    RegistryUnreachable.
    """
    try:
        yield
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        OSError,
        ValueError,
    ) as error:
        if isinstance(body, StreamBody) and body.failure is not None:
            raise body.failure from None
        raise _translated(error, method, url) from error


def _translated(error: BaseException, method: str, url: str) -> Exception:
    chain = list(_chain(error))
    place = _host_and_port(url)

    def unreachable(why: str, remedy: str | None = None) -> RegistryUnreachable:
        return RegistryUnreachable(f"{place}: {why} ({method} {without_query(url)})", remedy=remedy)

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {link.verify_message}"
            return unreachable(why, "Name the file of your certificate authority in REQUESTS_CA_BUNDLE.")
        if isinstance(link, ssl.SSLError) and link.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            why = "it does not speak TLS on this port"
            return unreachable(why, "If it is a plain HTTP registry, name it with --insecure-registry.")
    if among(urllib3.exceptions.ProxyError):
        why = f"the proxy that the environment names cannot be used: {_os_text(chain)}"
        remedy = "Correct HTTP_PROXY and HTTPS_PROXY, or name the registry in NO_PROXY."
        return TransientFailure(unreachable(why, remedy), attempts=_CONNECT_ATTEMPTS)
    if among(socket.gaierror, urllib3.exceptions.NameResolutionError):
        return TransientFailure(unreachable("the host name cannot be resolved"), attempts=_CONNECT_ATTEMPTS)
    if among(ConnectionRefusedError):
        return TransientFailure(unreachable("connection refused"), attempts=_CONNECT_ATTEMPTS)
    if among(urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout):
        return TransientFailure(unreachable("no connection within the time limit"), attempts=_CONNECT_ATTEMPTS)
    if among(urllib3.exceptions.NewConnectionError):
        return TransientFailure(unreachable(f"no connection: {_os_text(chain)}"), attempts=_CONNECT_ATTEMPTS)
    if among(urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError):
        return TransientFailure(unreachable("no answer within the time limit"))
    if among(
        urllib3.exceptions.LocationValueError,
        urllib3.exceptions.URLSchemeUnknown,
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidHeader,
    ):
        return unreachable("this address cannot be used")
    if among(http.client.IncompleteRead, urllib3.exceptions.IncompleteRead) and not among(OSError):
        # Closed in order, before the length that was announced: most likely the registry has no more.
        return TransientFailure(SizeMismatch(f"{place}: the answer ended early ({method} {without_query(url)})"))
    if among(OSError, http.client.HTTPException, urllib3.exceptions.HTTPError):
        return TransientFailure(unreachable(f"the connection broke: {_os_text(chain)}"))
    return unreachable(f"the request cannot be made: {type(error).__name__}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all it was made from: requests and urllib3 carry the origin in `args`, `reason` or context."""
    pending, seen = [error], set[int]()
    while pending:
        link = pending.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending += [getattr(link, "reason", None), *link.args, link.__cause__, link.__context__]


def _os_text(chain: list[BaseException]) -> str:
    """The innermost plain reason. Never the text of a library's exception: those quote URLs with their queries."""
    for link in reversed(chain):
        if isinstance(link, OSError) and link.strerror:
            return str(link.strerror)
    if any(isinstance(link, http.client.BadStatusLine) for link in chain):
        if any(isinstance(link, http.client.RemoteDisconnected) for link in chain):
            return "closed without an answer"
        return "what came back is not HTTP"
    return type(chain[-1]).__name__


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return host if host.rpartition("]")[2].count(":") or default is None else f"{host}:{default}"
