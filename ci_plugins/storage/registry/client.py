"""A registry as its API: requests with authentication, redirects and retries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urljoin, urlsplit

import requests

from ci_plugins.errors import AuthenticationFailed, RegistryError
from ci_plugins.oci import Descriptor, Digest
from ci_plugins.storage.registry.answers import Answer, check, refusal, without_query
from ci_plugins.storage.registry.auth import Authorizer, Scopes
from ci_plugins.storage.registry.credentials import CredentialStore
from ci_plugins.storage.registry.retry import Retry, RetryPolicy, TransientFailure
from ci_plugins.storage.registry.transport import StreamBody, Timeouts, Transport, base_url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}


class RegistryClient:
    """Requests to one registry. Thread safe; share one a registry so that connections and tokens are shared.

    `registry` is `host[:port]` or "docker.io"; `insecure` names the registries spoken to in plain HTTP besides
    loopback. `credentials` defaults to Docker's configuration file, read when a registry first asks. `on_retry` hears
    of every failure that is tried again; `retries` counts them.
    """

    def __init__(
        self,
        registry: str,
        *,
        insecure: frozenset[str] = frozenset(),
        credentials: CredentialStore | None = None,
        policy: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        on_retry: Callable[[Retry], None] = lambda retry: None,
    ) -> None:
        self.registry = registry
        self.base = base_url(registry, insecure)
        self.policy = policy or RetryPolicy()
        self.retries = 0
        self.transport = Transport(timeouts or Timeouts())
        self._auth = Authorizer(registry, self.base, self.transport, credentials)
        self._on_retry = on_retry
        self._lock = threading.Lock()
        #: blobs the registry has told us it has: (repository, digest, size)
        self._seen: set[tuple[str, Digest, int]] = set()

    def url(self, repository: str, rest: str) -> str:
        return f"{self.base}/v2/{repository}/{rest}"

    def exchange(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        ok: Collection[int],
        *,
        headers: Mapping[str, str] = {},
        body: bytes | None = None,
    ) -> Answer:
        """Send, as often as the policy allows, and return the answer, whose status is one of `ok`.

        Raises RegistryUnreachable, AuthenticationFailed, RegistryUnavailable, ImageNotFound, RegistryRejected.
        """
        return self.policy.run(
            lambda: self.attempt(method, url, scopes, ok, headers=headers, body=body), self.note_retry
        )

    def attempt(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        ok: Collection[int],
        *,
        headers: Mapping[str, str] = {},
        body: bytes | StreamBody | None = None,
    ) -> Answer:
        """One try of `exchange`, for callers with retries of their own: raises TransientFailure too."""
        response, final = self.open(method, url, scopes, headers=headers, body=body)
        answer = self.transport.read(method, final, response)
        if answer.status == 403 and 403 not in ok and same_origin(final, self.base):
            raise AuthenticationFailed(f"{refusal(answer).message} ({self._auth.who()})")
        return check(answer, ok)

    def open(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        *,
        headers: Mapping[str, str] = {},
        body: bytes | StreamBody | None = None,
    ) -> tuple[requests.Response, str]:
        """One try, without reading the answer: the response, to be closed, and the URL it is from in the end.

        Follows redirects, dropping the authorization where they leave the registry; not with a body that is sent once.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._authorized(method, url, scopes, headers, body)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location or isinstance(body, StreamBody):
                return response, url
            response.close()
            url = urljoin(url, location)
            if response.status_code == 303 and method != "HEAD":
                method, body = "GET", None
        raise RegistryError(f"{method} {without_query(url)}: more than {_MOST_REDIRECTS} redirects")

    def note_retry(self, retry: Retry) -> None:
        with self._lock:
            self.retries += 1
        self._on_retry(retry)

    def has_seen(self, repository: str, blob: Descriptor) -> bool:
        """Whether the registry has said that the blob is there, to whoever shares this client."""
        with self._lock:
            return (repository, blob.digest, blob.size) in self._seen

    def note_seen(self, repository: str, blob: Descriptor) -> None:
        with self._lock:
            self._seen.add((repository, blob.digest, blob.size))

    def forget_seen(self, repository: str, blob: Descriptor) -> None:
        with self._lock:
            self._seen.discard((repository, blob.digest, blob.size))

    def close(self) -> None:
        self.transport.close()

    def _authorized(
        self, method: str, url: str, scopes: Scopes, headers: Mapping[str, str], body: bytes | StreamBody | None
    ) -> requests.Response:
        """Send with what the registry wants to see. Another host (object storage) never sees it."""
        if not same_origin(url, self.base):
            return self.transport.open(method, url, headers, body)
        while True:
            used = self._auth.header(scopes)
            authorization = {"Authorization": used} if used else {}
            response = self.transport.open(method, url, {**headers, **authorization}, body)
            if response.status_code != 401:
                self._auth.accepted(scopes, used)
                return response
            response.close()
            # Ends the loop: a token that was refused when new, or missing credentials, raise here.
            self._auth.challenged(response.headers, scopes, used)
            if isinstance(body, StreamBody):
                failure = AuthenticationFailed(f"{method} {without_query(url)} was answered 401")
                raise TransientFailure(failure, retry_after=0.0)


def same_origin(url: str, other: str) -> bool:
    """Same scheme, host and port (RFC 6454)."""
    return _origin(url) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
