"""One blob on its way into a registry (OCI distribution spec, "Pushing blobs"), one verb a step:
start or resume a session → stream → commit → confirm.

The whole state is where the session is and how much of it the registry has. After any failure the registry is asked
for that offset, and the source is read again from there; a session that is lost starts again from the first byte.
(distribution 2.8 keeps a session only up to the last request that ended well, so it loses a broken one; others resume.)

Chunks are not used: one request carries all that is known to be missing, which also satisfies any OCI-Chunk-Min-Length.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urljoin

from ci_plugins.errors import (
    CiPluginsError,
    DigestMismatch,
    RegistryError,
    RegistryRejected,
    RegistryUnreachable,
    SizeMismatch,
)
from ci_plugins.events import ActiveSpan
from ci_plugins.oci import Descriptor
from ci_plugins.storage.blob import BlobSource
from ci_plugins.storage.registry.answers import (
    Answer,
    content_digest,
    content_length,
    errors_in,
    refusal,
    upload_offset,
)
from ci_plugins.storage.registry.auth import Scopes
from ci_plugins.storage.registry.client import RegistryClient
from ci_plugins.storage.registry.retry import Retry, TransientFailure
from ci_plugins.storage.registry.transport import StreamBody

_BINARY = {"Content-Type": "application/octet-stream"}
#: answers that say "there is no such upload (any more)"
_LOST = (404, 410)
_MOVED = (307, 308)
#: everything but what retries and credentials can change
_FINAL = frozenset(range(200, 500)) - {401, 403, 408, 429}


def blob_size(client: RegistryClient, repository: str, scopes: Scopes, digest: str) -> int | None:
    """The size in bytes of a blob the registry has, -1 if it does not tell; None if it does not have it.

    One try: raises TransientFailure too.
    """
    answer = client.attempt("HEAD", client.url(repository, f"blobs/{digest}"), scopes, (200, 404))
    if answer.status == 404:
        return None
    length = content_length(answer.headers)
    return -1 if length is None else length


class Upload:
    """`run` once. `session` is the URL of an upload the registry has already opened (a refused mount opens one)."""

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        scopes: Scopes,
        source: BlobSource,
        span: ActiveSpan,
        session: str | None = None,
    ) -> None:
        self._client = client
        self._repository = repository
        self._scopes = scopes
        self._source = source
        self._span = span
        self._location = session
        #: bytes the registry has told us it has
        self._offset = 0
        #: the largest offset so far, for telling whether retries bring it forward
        self._furthest = 0
        #: a request failed: what the registry has is not known
        self._unsure = False
        #: the most bytes of the blob the registry can have from us
        self._sent = 0
        #: where in the blob the last request ended
        self._sent_to = 0
        self._retries = 0
        #: a whole blob in one PUT was too much for the registry (413)
        self._patch_only = False
        self._corrupted_before = False

    def run(self) -> Descriptor:
        """Send, retrying for as long as it goes forward; returns when the registry confirms digest and size.

        Raises what the source raised; RegistryError; DigestMismatch or SizeMismatch for what cannot be confirmed.
        """
        try:
            descriptor = self._client.policy.run(self._attempt, self._note_retry, lambda: self._furthest)
        except RegistryUnreachable:
            raise
        except Exception:
            self._cancel()
            raise
        self._span.set(bytes=descriptor.size, digest=descriptor.digest, retries=self._retries)
        return descriptor

    def _note_retry(self, retry: Retry) -> None:
        self._retries += 1
        self._client.note_retry(retry)

    def _attempt(self) -> Descriptor:
        try:
            if self._unsure and self._is_there():
                return self._complete()
            self._locate()
            if not self._stream():
                self._commit()
            self._location = None
            return self._confirm()
        except TransientFailure:
            self._unsure = True
            raise

    def _complete(self) -> Descriptor:
        descriptor = self._source.descriptor
        assert descriptor is not None, "a source that has ended has a descriptor"
        return descriptor

    # -- start or resume --------------------------------------------------------------------------------------------

    def _is_there(self) -> bool:
        """The answer to a commit may have been lost, not the commit."""
        descriptor = self._source.descriptor
        if descriptor is None:
            return False
        size = blob_size(self._client, self._repository, self._scopes, descriptor.digest)
        return size in (descriptor.size, -1)

    def _locate(self) -> None:
        if self._location is not None and self._unsure:
            answer = self._ask("GET", self._location, _FINAL)
            offset = upload_offset(answer.headers, self._sent)
            if answer.status < 300 and offset is not None and offset <= self._most():
                self._go_on(answer, offset)
            else:
                self._forget()
        if self._location is None:
            answer = self._ask("POST", self._client.url(self._repository, "blobs/uploads/"), (202,))
            if not answer.headers.get("Location"):
                raise RegistryRejected(f"{self._client.registry} opened an upload without saying where (no Location)")
            self._go_on(answer, 0)
        self._unsure = False

    def _most(self) -> int:
        """The most bytes the registry can have got from us."""
        descriptor = self._source.descriptor
        return self._sent if descriptor is None else min(self._sent, descriptor.size)

    def _go_on(self, answer: Answer, offset: int) -> None:
        location = answer.headers.get("Location")
        if location:
            self._location = urljoin(answer.url, location)
        self._offset = offset
        self._furthest = max(self._furthest, offset)

    def _forget(self) -> None:
        self._location, self._offset = None, 0

    def _cancel(self) -> None:
        """Let the registry clean up. Best effort: whatever made us give up is the error that matters."""
        if self._location is None:
            return
        try:
            self._ask("DELETE", self._location, _FINAL)
        except (CiPluginsError, TransientFailure):
            return

    # -- stream -----------------------------------------------------------------------------------------------------

    def _stream(self) -> bool:
        """Send what the registry does not have. True if that has committed the blob too."""
        while True:
            descriptor = self._source.descriptor
            if descriptor is not None and self._offset == descriptor.size and (self._offset or self._patch_only):
                return False
            if descriptor is not None and self._offset == 0 and not self._patch_only:
                return self._put_whole(descriptor)
            self._patch(descriptor)
            if self._source.descriptor is not None and self._offset == self._source.descriptor.size:
                return False

    def _put_whole(self, descriptor: Descriptor) -> bool:
        answer = self._send(
            "PUT", self._commit_url(descriptor), descriptor, (201, 202, 204, 400, 413, 416, *_LOST, *_MOVED)
        )
        if answer.status == 413:
            self._patch_only = True
            self._forget()
            raise TransientFailure(refusal(answer), retry_after=0.0)
        self._raise_if_not_taken(answer)
        self._check_digest(answer, descriptor)
        self._offset = descriptor.size
        return True

    def _patch(self, descriptor: Descriptor | None) -> None:
        assert self._location is not None
        before = self._offset
        answer = self._send("PATCH", self._location, descriptor, (201, 202, 204, 400, 416, *_LOST, *_MOVED))
        self._raise_if_not_taken(answer)
        offset = upload_offset(answer.headers, self._sent_to)
        self._go_on(answer, self._sent_to if offset is None else offset)
        if not before < self._offset <= self._sent_to and self._sent_to > before:
            raise TransientFailure(
                RegistryRejected(
                    f"{self._client.registry} took an upload from byte {before} to {self._sent_to} "
                    f"and says that it has {self._offset} bytes"
                )
            )

    def _send(self, method: str, url: str, descriptor: Descriptor | None, ok: Collection[int]) -> Answer:
        """Send the source from the offset on, with its length where that is known."""
        start = self._offset
        total = None if descriptor is None else descriptor.size
        body = StreamBody(
            iter(self._source.blocks(start)),
            None if total is None else total - start,
            lambda sent: self._span.progress(start + sent, total),
        )
        try:
            return self._ask(method, url, ok, headers=_BINARY, body=body)
        finally:
            body.close()
            self._sent_to = start + body.sent
            self._sent = max(self._sent, self._sent_to)

    def _raise_if_not_taken(self, answer: Answer) -> None:
        """Sort the answers after which the upload goes on another way."""
        if answer.status in _MOVED:
            self._go_on(answer, self._offset)
            raise TransientFailure(refusal(answer), retry_after=0.0)
        if answer.status == 400 and any(code == "DIGEST_INVALID" for code, _ in errors_in(answer.body)):
            raise self._corrupted(answer)
        if answer.status in _LOST:
            self._forget()
            raise TransientFailure(refusal(answer), retry_after=0.0)
        if answer.status == 416:
            raise TransientFailure(refusal(answer), retry_after=0.0)
        if answer.status >= 300:
            raise refusal(answer)

    def _corrupted(self, answer: Answer) -> Exception:
        """What arrived is not what was sent: once is bad luck (or a broken request that was still being read)."""
        self._forget()
        error = DigestMismatch(
            f"{self._client.registry}/{self._repository}: the bytes of {self._complete().digest} arrived changed",
            remedy="Something between here and the registry changes what is sent: check proxies, try again.",
        )
        if self._corrupted_before:
            return error
        self._corrupted_before = True
        return TransientFailure(error)

    # -- commit and confirm -----------------------------------------------------------------------------------------

    def _commit(self) -> None:
        descriptor = self._complete()
        answer = self._ask("PUT", self._commit_url(descriptor), (201, 202, 204, 400, 416, *_LOST), body=b"")
        self._raise_if_not_taken(answer)
        self._check_digest(answer, descriptor)

    def _confirm(self) -> Descriptor:
        descriptor = self._complete()
        size = blob_size(self._client, self._repository, self._scopes, descriptor.digest)
        where = f"{self._client.registry}/{self._repository}: blob {descriptor.digest}"
        if size is None:
            raise TransientFailure(RegistryError(f"{where} was accepted, but is not there"))
        if size not in (descriptor.size, -1):
            raise SizeMismatch(
                f"{where} has {size} bytes in the registry, not {descriptor.size}",
                remedy="What the registry stores is damaged: delete that blob there, then push again.",
            )
        return descriptor

    def _commit_url(self, descriptor: Descriptor) -> str:
        assert self._location is not None
        return f"{self._location}{'&' if '?' in self._location else '?'}digest={descriptor.digest}"

    def _check_digest(self, answer: Answer, descriptor: Descriptor) -> None:
        said = content_digest(answer.headers)
        if said is not None and said != descriptor.digest:
            raise DigestMismatch(
                f"{self._client.registry}/{self._repository} stored a blob as {said}, not as {descriptor.digest}",
                remedy="The registry is broken or something in front of it is: nothing was published.",
            )

    def _ask(
        self,
        method: str,
        url: str,
        ok: Collection[int],
        *,
        headers: dict[str, str] = {},
        body: bytes | StreamBody | None = None,
    ) -> Answer:
        return self._client.attempt(method, url, self._scopes, ok, headers=headers, body=body)
