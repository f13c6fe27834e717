"""Authentication: Basic, and Bearer tokens as distribution's token specification has them.

A registry is asked without credentials first; its 401 says what it wants. Tokens are kept by scope and renewed before
they end, or when a 401 says they have.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin, urlsplit

from ci_plugins.errors import AuthenticationFailed
from ci_plugins.oci import is_loopback
from ci_plugins.storage.registry.answers import check, said, without_query
from ci_plugins.storage.registry.challenge import Challenge, parse_challenges
from ci_plugins.storage.registry.credentials import Credentials, CredentialStore, DockerConfig
from ci_plugins.storage.registry.transport import Transport

#: what a token lives when the answer does not say, in seconds (token specification)
_DEFAULT_LIFE = 60.0
_CLIENT = "ci-plugins"

Scopes = frozenset[str]


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


@dataclass(slots=True)
class _Token:
    header: str = field(repr=False)
    #: monotonic seconds after which it is not used any more
    until: float
    #: the registry has taken it at least once
    accepted: bool = False


class Authorizer:
    """The Authorization header for requests to one registry. Thread safe: one token request a scope at a time."""

    def __init__(self, registry: str, base: str, transport: Transport, store: CredentialStore | None) -> None:
        self._registry = registry
        self._base = base
        self._transport = transport
        self._store = store
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._locks: dict[Scopes, threading.Lock] = {}
        self._lock = threading.Lock()

    def header(self, scopes: Scopes) -> str | None:
        """None until the registry has asked, and for anonymous use of one that takes Basic.

        Raises AuthenticationFailed, TransientFailure, RegistryUnreachable: from the token server.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            credentials = self.credentials()
            return None if credentials.anonymous else _basic(credentials)
        with self._locked(scopes):
            token = self._tokens.get(scopes)
            if token is None or time.monotonic() > token.until:
                token = self._tokens[scopes] = self._fetch(challenge, scopes)
            return token.header

    def accepted(self, scopes: Scopes, used: str | None) -> None:
        """The registry answered something else than 401 to this header."""
        token = self._tokens.get(scopes)
        if token is not None and token.header == used:
            token.accepted = True

    def challenged(self, headers: Mapping[str, str], scopes: Scopes, used: str | None) -> None:
        """The registry answered 401 to this header. Returns if another attempt can end otherwise.

        Raises AuthenticationFailed: the credentials are wrong, missing, or lack the right.
        """
        challenges = parse_challenges(headers.get("WWW-Authenticate", ""))
        chosen = next((c for scheme in ("bearer", "basic") for c in challenges if c.scheme == scheme), None)
        if chosen is None:
            raise AuthenticationFailed(f"{self._registry} refuses access and names no way to authenticate we know")
        self._challenge = chosen
        if chosen.scheme == "basic":
            if (used or "").startswith("Basic ") or self.credentials().anonymous:
                raise self._refused(scopes)
            return
        with self._locked(scopes):
            token = self._tokens.get(scopes)
            if token is None or token.header != used:
                return
            if not token.accepted:
                raise self._refused(scopes)
            del self._tokens[scopes]

    def credentials(self) -> Credentials:
        """Looked up once, when first needed: a helper may ask the person. Raises ConfigError."""
        with self._lock:
            if self._credentials is None:
                self._credentials = (self._store or DockerConfig.default()).find(self._registry)
            return self._credentials

    def who(self) -> str:
        """Which credentials were used, for messages: "as USER (from FILE)", "no credentials (…)"."""
        credentials = self._credentials
        if credentials is None:
            return "no credentials were asked for"
        return str(credentials) if credentials.anonymous else f"tried as {credentials}"

    def _refused(self, scopes: Scopes, detail: str = "") -> AuthenticationFailed:
        what = ", ".join(sorted(scope.removeprefix("repository:") for scope in scopes)) or "its API"
        return AuthenticationFailed(f"{self._registry} refuses access to {what}: {self.who()}{detail}")

    def _locked(self, scopes: Scopes) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(scopes, threading.Lock())

    # -- token server -----------------------------------------------------------------------------------------------

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Token:
        realm = self._realm(challenge)
        wanted = sorted(scopes | set(challenge.parameters.get("scope", "").split() if not scopes else ()))
        service = challenge.parameters.get("service", "")
        credentials = self.credentials()
        method, url, headers, body = _token_request(realm, service, wanted, credentials)
        answer = self._transport.read(method, url, self._transport.open(method, url, headers, body))
        if answer.status in (400, 401, 403):
            raise self._refused(scopes, f"; the token server {without_query(realm)} said{said(answer.body) or ' no'}")
        check(answer, (200,))
        try:
            value = json.loads(answer.body)
            token = value.get("token") or value["access_token"]
            life = float(value.get("expires_in") or _DEFAULT_LIFE)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AuthenticationFailed(
                f"the token server {without_query(realm)} of {self._registry} did not answer with a token"
            ) from error
        # A fifth is kept back: a request that starts with a token should not outlive it by much.
        return _Token(f"Bearer {token}", time.monotonic() + 0.8 * life)

    def _realm(self, challenge: Challenge) -> str:
        realm = urljoin(self._base, challenge.parameters.get("realm", ""))
        parts = urlsplit(realm)
        private = parts.scheme == "https" or is_loopback(parts.netloc) or self._base.startswith("http://")
        if not challenge.parameters.get("realm") or parts.scheme not in ("http", "https") or not private:
            raise AuthenticationFailed(
                f"{self._registry} wants a token from {without_query(realm)}, where credentials would not be safe",
                remedy="Ask the operator of the registry to give its token server's address with https.",
            )
        return realm


def _token_request(
    realm: str, service: str, scopes: list[str], credentials: Credentials
) -> tuple[str, str, dict[str, str], bytes | None]:
    """(method, URL, headers, body): POST with an identity token, else GET, with Basic where there is a user."""
    if credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": credentials.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return "POST", realm, headers, urlencode(form).encode()
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    headers = {}
    if credentials.username:
        query.append(("account", credentials.username))
        headers["Authorization"] = _basic(credentials)
    joint = "&" if "?" in realm else "?"
    return "GET", f"{realm}{joint}{urlencode(query)}", headers, None


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
