"""What a registry answers, and what its refusals mean as errors (OCI distribution spec, "Error Codes").

Messages name the method and the URL without its query: upload states and pre-signed URLs are secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ci_plugins.errors import (
    AuthenticationFailed,
    ImageNotFound,
    RegistryError,
    RegistryRejected,
    RegistryUnavailable,
)
from ci_plugins.oci import Digest, parse_digest
from ci_plugins.storage.registry.retry import TRANSIENT_STATUSES, TransientFailure, parse_retry_after

_MAYBE_HTTPS = (
    "The registry may want HTTPS: address it by a name that is neither loopback nor named with --insecure-registry."
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_UPLOAD_RANGE = re.compile(r"(?:bytes[ =])?0-([0-9]+)\Z")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/(?:[0-9]+|\*)\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. Header names are looked up without regard to case."""

    method: str
    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = b""


def check(answer: Answer, ok: Collection[int]) -> Answer:
    """Pass an expected answer on. Raises TransientFailure for what may pass, RegistryError for a refusal."""
    if answer.status in ok:
        return answer
    error = refusal(answer)
    if answer.status in TRANSIENT_STATUSES:
        raise TransientFailure(error, retry_after=parse_retry_after(answer.headers.get("Retry-After")))
    raise error


def refusal(answer: Answer) -> RegistryError:
    """The error an unexpected answer stands for."""
    message = (
        f"{answer.method} {without_query(answer.url)} was answered {answer.status} {answer.reason}".rstrip()
        + said(answer.body)
    )
    if answer.status in (401, 403):
        return AuthenticationFailed(message)
    if answer.status in TRANSIENT_STATUSES:
        return RegistryUnavailable(message)
    if answer.status == 404 and answer.method in ("GET", "HEAD"):
        return ImageNotFound(message)
    if answer.status == 400 and answer.url.startswith("http:") and not errors_in(answer.body):
        # What servers answer to plain HTTP on a TLS port, in words of their own; to HEAD without any.
        return RegistryRejected(message, remedy=_MAYBE_HTTPS)
    return RegistryRejected(message)


def said(body: bytes) -> str:
    """`: CODE: message; …` out of a body of errors; a plain text body as it is, cut short; else nothing."""
    texts = [f"{code}: {message}" if code and message else code or message for code, message in errors_in(body)]
    if not texts and body[:1] not in (b"{", b"[", b"<"):
        texts = [body[:200].decode(errors="replace")]
    text = _CONTROL.sub(" ", "; ".join(texts)).strip()
    return f": {text[:500]}" if text else ""


def errors_in(body: bytes) -> list[tuple[str, str]]:
    """(code, message) of each entry of an error document; empty if it is none."""
    try:
        entries = json.loads(body)["errors"]
        return [(str(entry.get("code") or ""), str(entry.get("message") or "")) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def without_query(url: str) -> str:
    """A URL that can be shown: no query, no user information."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def content_digest(headers: Mapping[str, str]) -> Digest | None:
    """Docker-Content-Digest, None where absent or of another algorithm than sha256."""
    try:
        return parse_digest(headers.get("Docker-Content-Digest", "").strip())
    except ValueError:
        return None


def content_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def upload_offset(headers: Mapping[str, str], sent: int) -> int | None:
    """How many bytes of an upload the registry has, from `Range: 0-<last>`. None if it does not say.

    "0-0" ought to mean one byte, but registries say it of an upload that has none: it is one if one byte was sent.
    """
    match = _UPLOAD_RANGE.match(headers.get("Range", "").strip())
    if not match:
        return None
    last = int(match[1])
    return last + 1 if last or sent == 1 else 0


def range_start(headers: Mapping[str, str]) -> int | None:
    """Where a partial answer starts, from `Content-Range: bytes <first>-<last>/<size>`."""
    match = _CONTENT_RANGE.match(headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None
