"""One HTTP request to whatever host, as large blocks over kept connections. No retries, no authentication here.

Thread safe: connections are taken from urllib3's pools and given back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.utils

from ci_plugins import __version__
from ci_plugins.errors import ConfigError, RegistryError, RegistryUnreachable, SizeMismatch
from ci_plugins.oci import is_loopback
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.registry.answers import Answer, without_query
from ci_plugins.storage.registry.failures import transport_errors
from ci_plugins.storage.registry.retry import TransientFailure

#: The distribution spec lets registries limit manifests to 4 MiB; no other answer that is kept whole is larger.
LARGEST_ANSWER = 4 << 20
#: Bytes given to one `send`: small enough to stay in the processor's cache, and for its timeout on a slow line.
_SLICE = 64 << 10
#: Connections kept a host. More threads than this still work; theirs are closed after use.
_POOL = 32
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
        try:
            return self._send(method, url, headers, body)
        except (TransientFailure, RegistryUnreachable):
            # The network cannot be told from the source of the bytes by the exception alone.
            if isinstance(body, StreamBody) and body.failure is not None:
                raise body.failure from None
            raise

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | StreamBody | None
    ) -> requests.Response:
        with transport_errors(method, url):
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
