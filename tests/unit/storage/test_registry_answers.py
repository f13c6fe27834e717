from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from ci_plugins.errors import AuthenticationFailed, ImageNotFound, RegistryError, RegistryRejected, RegistryUnavailable
from ci_plugins.storage.registry.answers import (
    Answer,
    content_digest,
    content_length,
    range_start,
    refusal,
    said,
    upload_offset,
    without_query,
)

URL = "https://user:pw@r.example/v2/a/b/manifests/1?_state=s3cret"


@pytest.mark.parametrize(
    ("method", "status", "kind"),
    [
        ("GET", 401, AuthenticationFailed),
        ("PUT", 403, AuthenticationFailed),
        ("GET", 404, ImageNotFound),
        ("HEAD", 404, ImageNotFound),
        ("PUT", 404, RegistryRejected),
        ("PUT", 413, RegistryRejected),
        ("GET", 429, RegistryUnavailable),
        ("GET", 503, RegistryUnavailable),
    ],
)
def test_kinds(method: str, status: int, kind: type[RegistryError]) -> None:
    assert type(refusal(Answer(method, URL, status, "", {}))) is kind


def test_a_refusal_says_what_the_registry_said() -> None:
    body = b'{"errors":[{"code":"NAME_INVALID","message":"bad name","detail":{}},{"code":"DENIED"},{"message":"m"}]}'
    error = refusal(Answer("PUT", URL, 400, "Bad Request", {}, body))
    assert str(error) == (
        "PUT https://r.example/v2/a/b/manifests/1 was answered 400 Bad Request: NAME_INVALID: bad name; DENIED; m"
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"slow down\n", ": slow down"),
        (b"<html>long page</html>", ""),
        (b'{"details":"no errors here"}', ""),
        (b'{"errors":[]}', ""),
        (b'{"errors":"text"}', ""),
        (b'{"errors":[null]}', ""),
        (b"[1]", ""),
        (b"\x1b[31mred\x00", ": [31mred"),
        (b"x" * 1000, ": " + "x" * 200),
    ],
)
def test_bodies(body: bytes, text: str) -> None:
    assert said(body) == text


@given(st.binary())
def test_any_body_is_one_line(body: bytes) -> None:
    assert "\n" not in said(body)
    assert len(said(body)) <= 502


def test_addresses_are_shown_without_secrets() -> None:
    assert without_query(URL) == "https://r.example/v2/a/b/manifests/1"


@pytest.mark.parametrize(
    ("value", "sent", "offset"),
    [
        ("0-99", 1000, 100),
        ("bytes=0-99", 1000, 100),
        ("bytes 0-99", 1000, 100),
        ("0-0", 1000, 0),
        ("0-0", 0, 0),
        ("0-0", 1, 1),
        ("", 5, None),
        ("5-99", 5, None),
        ("0-", 5, None),
        ("0--1", 5, None),
    ],
)
def test_upload_offsets(value: str, sent: int, offset: int | None) -> None:
    assert upload_offset({"Range": value}, sent) == offset


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("bytes 100-199/200", 100),
        ("bytes 100-199/*", 100),
        ("bytes */200", None),
        ("100-199/200", None),
        ("", None),
    ],
)
def test_ranges(value: str, start: int | None) -> None:
    assert range_start({"Content-Range": value}) == start


def test_digests_and_lengths() -> None:
    good = "sha256:" + "a" * 64
    assert content_digest(CaseInsensitiveDict({"docker-content-digest": good})) == good
    assert content_digest({"Docker-Content-Digest": "sha512:" + "a" * 128}) is None
    assert content_digest({}) is None
    assert content_length({"Content-Length": "12"}) == 12
    assert content_length({"Content-Length": "x"}) is None
    assert content_length({}) is None
