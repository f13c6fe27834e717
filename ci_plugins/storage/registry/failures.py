"""What the HTTP libraries and the network raise, in our words. All of it is translated in one place.

Messages name host, port, method and path, never a query or a library's own text: those hold secrets.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util.ssl_match_hostname import CertificateError

from ci_plugins.errors import CiPluginsError, RegistryUnreachable, SizeMismatch
from ci_plugins.storage.registry.answers import without_query
from ci_plugins.storage.registry.retry import TransientFailure

#: A host that does not take the connection is most likely wrong or down: people should not wait long to hear it.
_CONNECT_ATTEMPTS = 3
_UNUSABLE_ADDRESS = (
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.URLSchemeUnknown,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
)
_TIMEOUT = (urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError)
_CONNECT_TIMEOUT = (urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout)
_ENDED_EARLY = (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)
_BROKEN = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError)


@contextmanager
def transport_errors(method: str, url: str) -> Iterator[None]:
    """Translate everything: the only place that knows the exceptions of requests, urllib3, http.client and sockets.

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
        raise _translated(error, method, url) from error


def _translated(error: BaseException, method: str, url: str) -> Exception:
    chain = list(_chain(error))
    place, request = _host_and_port(url), f"({method} {without_query(url)})"

    def unreachable(why: str, remedy: str | None = None) -> RegistryUnreachable:
        return RegistryUnreachable(f"{place}: {why} {request}", remedy=remedy)

    def among(kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if hopeless := _tls(chain):
        return unreachable(*hopeless)
    if not_connected := _not_connected(chain):
        return TransientFailure(unreachable(*not_connected), attempts=_CONNECT_ATTEMPTS)
    if among(_TIMEOUT):
        return TransientFailure(unreachable("no answer within the time limit"))
    if among(_UNUSABLE_ADDRESS):
        return unreachable("this address cannot be used")
    if among(_ENDED_EARLY) and not among(OSError):
        # Closed in order, before the length that was announced: most likely the registry has no more.
        ended: CiPluginsError = SizeMismatch(f"{place}: the answer ended early {request}")
        return TransientFailure(ended)
    if among(_BROKEN):
        return TransientFailure(unreachable(f"the connection broke: {_reason(chain)}"))
    return unreachable(f"the request cannot be made: {type(error).__name__}")


def _tls(chain: list[BaseException]) -> tuple[str, str] | None:
    """(why, remedy) where TLS fails in a way that another attempt does not change."""
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {getattr(link, 'verify_message', 'verification failed')}"
            return why, "Name the file of your certificate authority in REQUESTS_CA_BUNDLE."
        if isinstance(link, CertificateError):
            return "its certificate is for another name", "Use the name the certificate was made for."
        if isinstance(link, ssl.SSLError) and getattr(link, "reason", None) in (
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
        ):
            return (
                "it does not speak TLS on this port",
                "If it is a plain HTTP registry, name it with --insecure-registry.",
            )
    return None


def _not_connected(chain: list[BaseException]) -> tuple[str, str | None] | None:
    """(why, remedy) where no connection came about; a remedy of None is the usual one."""

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if among(urllib3.exceptions.ProxyError):
        why = f"the proxy that the environment names cannot be used: {_reason(chain)}"
        return why, "Correct HTTP_PROXY and HTTPS_PROXY, or name the registry in NO_PROXY."
    if among(socket.gaierror, urllib3.exceptions.NameResolutionError):
        return "the host name cannot be resolved", None
    if among(ConnectionRefusedError):
        return "connection refused", None
    if among(*_CONNECT_TIMEOUT):
        return "no connection within the time limit", None
    if among(urllib3.exceptions.NewConnectionError):
        return f"no connection: {_reason(chain)}", None
    return None


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


def _reason(chain: list[BaseException]) -> str:
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
