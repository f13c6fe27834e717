"""Pulling from registries: manifests and blobs, verified while they stream (`storage.blob.ImageOrigin`)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

from ci_plugins.errors import DigestMismatch, ImageNotFound, RegistryError, RegistryRejected, SizeMismatch
from ci_plugins.oci import (
    Descriptor,
    ImageIndex,
    Manifest,
    Reference,
    media,
    parse_manifest_or_index,
    sha256_digest,
)
from ci_plugins.storage.registry.answers import Answer, check, content_digest, content_length, range_start
from ci_plugins.storage.registry.auth import pull_scope
from ci_plugins.storage.registry.client import RegistryClient
from ci_plugins.storage.registry.retry import TransientFailure

ACCEPT = ", ".join(sorted(media.MANIFESTS) + sorted(media.INDEXES))
_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)


class RegistryOrigin:
    """Images of any registry; `client_for` gives the client of a registry name and is asked once for each."""

    def __init__(self, client_for: Callable[[str], RegistryClient]) -> None:
        self._client_for = client_for
        self._clients: dict[str, RegistryClient] = {}
        self._lock = threading.Lock()

    def manifest(self, reference: Reference) -> Manifest | ImageIndex:
        """The document a reference names; verified when it names a digest, or when the registry does.

        Raises ImageNotFound, AuthenticationFailed, RegistryUnreachable, RegistryUnavailable, RegistryRejected,
        DigestMismatch.
        """
        answer = self._get(reference)
        _check_digest(reference, answer)
        try:
            return parse_manifest_or_index(answer.body, _media_type(answer))
        except ValueError as error:
            raise RegistryError(f"{reference}: what the registry has is no image manifest: {error}") from error

    def resolve(self, reference: Reference) -> Descriptor:
        """Type, digest and size of the manifest a reference names, without fetching it where the registry says all.

        Raises as `manifest` does.
        """
        answer = self._ask("HEAD", reference, (200, 404, 405))
        digest, size = content_digest(answer.headers), content_length(answer.headers)
        if answer.status != 200 or digest is None or not size:
            answer = self._get(reference)
            _check_digest(reference, answer)
            digest, size = sha256_digest(answer.body), len(answer.body)
        elif reference.digest and digest != reference.digest:
            raise _wrong_digest(reference, reference.digest, digest)
        _refuse_schema_1(reference, answer)
        return Descriptor(_media_type(answer), digest, size)

    def blob(self, reference: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob in the repository of `reference`. A broken connection is taken up where it broke.

        Raises DigestMismatch or SizeMismatch after the last good byte: use nothing before the iterator has ended.
        """
        return _Download(self._client(reference), reference, descriptor).blocks()

    def _get(self, reference: Reference) -> Answer:
        answer = self._ask("GET", reference, (200, 404))
        if answer.status == 404:
            raise ImageNotFound(f"{reference} does not exist in the registry")
        _refuse_schema_1(reference, answer)
        return answer

    def _ask(self, method: str, reference: Reference, ok: tuple[int, ...]) -> Answer:
        client = self._client(reference)
        url = client.url(reference.repository, f"manifests/{reference.target}")
        scopes = frozenset({pull_scope(reference.repository)})
        return client.exchange(method, url, scopes, ok, headers={"Accept": ACCEPT})

    def _client(self, reference: Reference) -> RegistryClient:
        with self._lock:
            if reference.registry not in self._clients:
                self._clients[reference.registry] = self._client_for(reference.registry)
            return self._clients[reference.registry]


class _Download:
    """One blob on its way, over as many requests as it takes; no byte is given out twice."""

    def __init__(self, client: RegistryClient, reference: Reference, descriptor: Descriptor) -> None:
        self._client = client
        self._url = client.url(reference.repository, f"blobs/{descriptor.digest}")
        self._scopes = frozenset({pull_scope(reference.repository)})
        self._descriptor = descriptor
        self._name = f"{descriptor.digest} of {reference.registry}/{reference.repository}"
        self._received = 0
        self._hash = hashlib.sha256()
        self._current: Iterator[bytes] | None = None

    def blocks(self) -> Iterator[bytes]:
        run, note = self._client.policy.run, self._client.note_retry
        try:
            while block := run(self._next_block, note):
                self._received += len(block)
                if self._received > self._descriptor.size:
                    raise self._wrong_size("more than")
                self._hash.update(block)
                yield block
        finally:
            self._drop()
        digest = f"sha256:{self._hash.hexdigest()}"
        if digest != self._descriptor.digest:
            raise DigestMismatch(f"blob {self._name}: the bytes received have the digest {digest}")

    def _next_block(self) -> bytes:
        """Empty at the end. Opens a connection where there is none, after a failure from the first missing byte."""
        try:
            if self._current is None:
                if 0 < self._received == self._descriptor.size:
                    return b""
                self._current = self._open()
            block = next(self._current, b"")
            if not block and self._received < self._descriptor.size:
                # Only an answer that does not give its length can end early without an error.
                raise TransientFailure(self._wrong_size("fewer than"), attempts=2)
        except TransientFailure:
            self._drop()
            raise
        return block

    def _drop(self) -> None:
        if self._current is not None:
            _close(self._current)
        self._current = None

    def _open(self) -> Iterator[bytes]:
        headers = {"Range": f"bytes={self._received}-"} if self._received else {}
        response, url = self._client.open("GET", self._url, self._scopes, headers=headers)
        transport = self._client.transport
        if response.status_code not in (200, 206):
            answer = transport.read("GET", url, response)
            if answer.status == 416:
                raise self._wrong_size("fewer than")
            check(answer, ())
        start = 0 if response.status_code == 200 else range_start(response.headers)
        length = content_length(response.headers)
        blocks = transport.blocks("GET", url, response)
        if start is None or start > self._received:
            response.close()
            raise RegistryRejected(f"blob {self._name}: the registry sent other bytes than those from {self._received}")
        if length is not None and start + length != self._descriptor.size:
            response.close()
            raise self._wrong_size("not")
        return _skip(blocks, self._received - start)

    def _wrong_size(self, how: str) -> SizeMismatch:
        return SizeMismatch(f"blob {self._name}: the registry has {how} the {self._descriptor.size} bytes it should")


def _skip(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Without the first `count` bytes: a registry without ranges sends all of them again."""
    try:
        for block in blocks:
            if count < len(block):
                yield block[count:] if count else block
            count = max(0, count - len(block))
    finally:
        _close(blocks)


def _close(blocks: Iterator[bytes]) -> None:
    close = getattr(blocks, "close", None)
    if close is not None:
        close()


def _media_type(answer: Answer) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip()


def _refuse_schema_1(reference: Reference, answer: Answer) -> None:
    if _media_type(answer) in _SCHEMA_1 or b'"schemaVersion":1' in answer.body[:200].replace(b" ", b""):
        raise RegistryRejected(
            f"{reference} is stored as Docker schema 1, which has no digests of its layers",
            remedy="Pull it with Docker 25 or older and push it again: that converts it.",
        )


def _check_digest(reference: Reference, answer: Answer) -> None:
    actual = sha256_digest(answer.body)
    expected = reference.digest or content_digest(answer.headers)
    if expected and expected != actual:
        raise _wrong_digest(reference, expected, actual)


def _wrong_digest(reference: Reference, expected: str, actual: str) -> DigestMismatch:
    return DigestMismatch(f"manifest {reference}: expected {expected}, the registry sent {actual}")
