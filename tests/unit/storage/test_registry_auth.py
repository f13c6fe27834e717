"""How an Authorizer decides; tests/integration/test_registry_auth.py has the servers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ci_plugins.errors import AuthenticationFailed
from ci_plugins.storage.registry import Credentials
from ci_plugins.storage.registry.answers import Answer
from ci_plugins.storage.registry.auth import Authorizer, pull_scope, push_scope
from ci_plugins.storage.registry.retry import TransientFailure

BEARER = {"WWW-Authenticate": 'Bearer realm="https://tokens.example/t?x=1",service="the service",scope="a:b:c"'}
BASIC = {"WWW-Authenticate": 'Basic realm="r"'}
SCOPES = frozenset({push_scope("a/b"), pull_scope("c/d")})
ME = Credentials("a test", "me", "hidden")


@dataclass
class Tokens:
    """Stands for the transport: answers token requests with t1, t2, …"""

    status: int = 200
    extra: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str], bytes | None]] = field(default_factory=list)

    def open(self, method: str, url: str, headers: Mapping[str, str] = {}, body: bytes | None = None) -> None:
        self.asked.append((method, url, headers, body))

    def read(self, method: str, url: str, response: None) -> Answer:
        value = {"token": f"t{len(self.asked)}", **self.extra}
        return Answer(method, url, self.status, "", {}, json.dumps(value).encode())


@dataclass
class Store:
    credentials: Credentials
    asked: int = 0

    def find(self, registry: str) -> Credentials:
        self.asked += 1
        return self.credentials


def authorizer(tokens: Tokens, credentials: Credentials = ME, base: str = "https://r.example") -> Authorizer:
    return Authorizer("r.example", base, tokens, Store(credentials))  # type: ignore[arg-type]


def test_nothing_is_sent_before_it_is_asked_for() -> None:
    tokens, store = Tokens(), Store(ME)
    one = Authorizer("r.example", "https://r.example", tokens, store)  # type: ignore[arg-type]
    assert one.header(SCOPES) is None
    assert (tokens.asked, store.asked) == ([], 0)


def test_a_token_is_asked_for_once() -> None:
    tokens = Tokens()
    one = authorizer(tokens)
    one.challenged(BEARER, SCOPES, None)
    assert [one.header(SCOPES), one.header(SCOPES)] == ["Bearer t1", "Bearer t1"]
    assert one.header(frozenset({pull_scope("c/d")})) == "Bearer t2", "another scope, another token"

    method, url, headers, body = tokens.asked[0]
    query = parse_qs(urlsplit(url).query)
    assert (method, body) == ("GET", None)
    assert url.startswith("https://tokens.example/t?x=1&")
    assert query["scope"] == ["repository:a/b:pull,push", "repository:c/d:pull"]
    assert (query["service"], query["account"]) == (["the service"], ["me"])
    assert headers["Authorization"] == "Basic bWU6aGlkZGVu"


def test_an_identity_token_is_posted() -> None:
    tokens = Tokens(extra={"token": None, "access_token": "given"})
    one = authorizer(tokens, Credentials("a test", identity_token="secret"))
    one.challenged(BEARER, SCOPES, None)
    assert one.header(SCOPES) == "Bearer given"
    method, url, headers, body = tokens.asked[0]
    form = parse_qs((body or b"").decode())
    assert (method, "secret" in url, "Authorization" in headers) == ("POST", False, False)
    assert (form["grant_type"], form["refresh_token"]) == (["refresh_token"], ["secret"])
    assert form["scope"] == ["repository:a/b:pull,push repository:c/d:pull"]


def test_a_new_token_that_is_refused_is_the_end() -> None:
    one = authorizer(Tokens())
    one.challenged(BEARER, SCOPES, None)
    used = one.header(SCOPES)
    with pytest.raises(AuthenticationFailed, match=r"a/b:pull,push, c/d:pull: tried as me \(from a test\)") as caught:
        one.challenged(BEARER, SCOPES, used)
    assert "hidden" not in str(caught.value)


def test_a_token_that_worked_before_is_renewed() -> None:
    one = authorizer(Tokens())
    one.challenged(BEARER, SCOPES, None)
    used = one.header(SCOPES)
    one.accepted(SCOPES, used)
    one.challenged(BEARER, SCOPES, used)
    assert one.header(SCOPES) == "Bearer t2"
    one.challenged(BEARER, SCOPES, used)  # another thread comes late, with the old one
    assert one.header(SCOPES) == "Bearer t2"


def test_a_token_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one = authorizer(Tokens(extra={"expires_in": 100}))
    one.challenged(BEARER, SCOPES, None)
    assert one.header(SCOPES) == "Bearer t1"
    now += 79
    assert one.header(SCOPES) == "Bearer t1"
    now += 2
    assert one.header(SCOPES) == "Bearer t2"


def test_basic() -> None:
    one = authorizer(Tokens())
    one.challenged(BASIC, SCOPES, None)
    used = one.header(SCOPES)
    assert used == "Basic bWU6aGlkZGVu"
    with pytest.raises(AuthenticationFailed, match="tried as me"):
        one.challenged(BASIC, SCOPES, used)


def test_basic_without_credentials() -> None:
    with pytest.raises(AuthenticationFailed, match="no credentials at all"):
        authorizer(Tokens(), Credentials("no credentials at all")).challenged(BASIC, SCOPES, None)


@pytest.mark.parametrize("header", ["", "Negotiate", "Digest realm=x"])
def test_ways_we_do_not_know(header: str) -> None:
    with pytest.raises(AuthenticationFailed, match="no way to authenticate"):
        authorizer(Tokens()).challenged({"WWW-Authenticate": header}, SCOPES, None)


def test_bearer_is_preferred() -> None:
    one = authorizer(Tokens())
    one.challenged({"WWW-Authenticate": f"{BASIC['WWW-Authenticate']}, {BEARER['WWW-Authenticate']}"}, SCOPES, None)
    assert one.header(SCOPES) == "Bearer t1"


@pytest.mark.parametrize(
    ("base", "realm", "safe"),
    [
        ("https://r.example", "https://t.example/", True),
        ("https://r.example", "http://127.0.0.1:5001/", True),
        ("https://r.example", "/token", True),
        ("http://r.example", "http://t.example/", True),
        ("https://r.example", "http://t.example/", False),
        ("https://r.example", "file:///etc/passwd", False),
        ("https://r.example", "", False),
    ],
)
def test_where_a_token_may_be_asked_for(base: str, realm: str, safe: bool) -> None:
    tokens = Tokens()
    one = authorizer(tokens, base=base)
    one.challenged({"WWW-Authenticate": f'Bearer realm="{realm}"'}, SCOPES, None)
    if safe:
        assert one.header(SCOPES) == "Bearer t1"
        return
    with pytest.raises(AuthenticationFailed, match="would not be safe"):
        one.header(SCOPES)
    assert tokens.asked == []


@pytest.mark.parametrize("extra", [{"token": None}, {"token": "x", "expires_in": "soon"}])
def test_a_token_server_that_answers_something_else(extra: Mapping[str, Any]) -> None:
    one = authorizer(Tokens(extra=extra))
    one.challenged(BEARER, SCOPES, None)
    with pytest.raises(AuthenticationFailed, match="did not answer with a token"):
        one.header(SCOPES)


def test_a_token_server_that_is_busy_is_asked_again() -> None:
    one = authorizer(Tokens(status=503))
    one.challenged(BEARER, SCOPES, None)
    with pytest.raises(TransientFailure):
        one.header(SCOPES)
