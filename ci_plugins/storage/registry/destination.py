"""Pushing to a repository of a registry (`storage.blob.Destination`)."""

from __future__ import annotations

import threading
from urllib.parse import urljoin

from ci_plugins.errors import DigestMismatch, ImageNotFound, RegistryRejected
from ci_plugins.events import ActiveSpan
from ci_plugins.oci import Descriptor, Digest, ImageIndex, Manifest, Reference, sha256_digest
from ci_plugins.storage.blob import BlobSource
from ci_plugins.storage.registry.answers import content_digest
from ci_plugins.storage.registry.auth import Scopes, pull_scope, push_scope
from ci_plugins.storage.registry.client import RegistryClient
from ci_plugins.storage.registry.origin import ACCEPT
from ci_plugins.storage.registry.upload import Upload, blob_size


class RegistryDestination:
    """One repository. Thread safe; what was seen there once, with the same client, is not asked for again."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = repository
        self._scopes: Scopes = frozenset({push_scope(repository)})
        self._lock = threading.Lock()
        #: uploads that refused mounts have opened, by digest
        self._sessions: dict[Digest, str] = {}

    @property
    def name(self) -> str:
        return f"{self._client.registry}/{self._repository}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the registry has it with this size: a truncated one does not count."""
        return self._client.has_seen(self._repository, descriptor) or self.has_now(descriptor)

    def has_now(self, descriptor: Descriptor) -> bool:
        """The same, asked of the registry whatever it said before."""
        size = self._client.policy.run(
            lambda: blob_size(self._client, self._repository, self._scopes, descriptor.digest),
            self._client.note_retry,
        )
        if size not in (descriptor.size, -1):
            return False
        self._client.note_seen(self._repository, descriptor)
        return True

    def mount_blob(self, descriptor: Descriptor, origin: Reference) -> bool:
        if origin.registry != self._client.registry or origin.repository == self._repository:
            return False
        url = self._client.url(self._repository, f"blobs/uploads/?mount={descriptor.digest}&from={origin.repository}")
        scopes = self._scopes | {pull_scope(origin.repository)}
        # A registry that cannot or may not do it says so in many ways; sending the bytes always remains.
        answer = self._client.exchange("POST", url, scopes, (201, 202, 400, 401, 403, 404, 405))
        if answer.status == 201:
            return self.has_blob(descriptor)
        location = answer.headers.get("Location")
        if answer.status == 202 and location:
            with self._lock:
                self._sessions[descriptor.digest] = urljoin(answer.url, location)
        return False

    def put_blob(self, source: BlobSource, span: ActiveSpan) -> Descriptor:
        span.set(destination=self.name)
        known = source.descriptor
        if known is not None and self.has_blob(known):
            span.set(bytes=known.size, digest=known.digest, result="exists")
            return known
        with self._lock:
            session = self._sessions.pop(known.digest, None) if known is not None else None
        descriptor = Upload(self._client, self._repository, self._scopes, source, span, session).run()
        span.set(result="uploaded")
        self._client.note_seen(self._repository, descriptor)
        return descriptor

    def manifest_digest(self, tag: str) -> str | None:
        url = self._client.url(self._repository, f"manifests/{tag}")
        answer = self._client.exchange("HEAD", url, self._scopes, (200, 404, 405), headers={"Accept": ACCEPT})
        if answer.status == 404:
            return None
        if digest := content_digest(answer.headers):
            return digest
        try:
            answer = self._client.exchange("GET", url, self._scopes, (200,), headers={"Accept": ACCEPT})
        except ImageNotFound:
            return None
        return sha256_digest(answer.body)

    def put_manifest(self, manifest: Manifest | ImageIndex, tag: str | None) -> None:
        """One request: a registry that takes a manifest under a tag stores it under its digest too.

        Raises RegistryRejected when a blob is missing, DigestMismatch when the registry stored something else.
        """
        digest = manifest.descriptor.digest
        url = self._client.url(self._repository, f"manifests/{tag or digest}")
        answer = self._client.exchange(
            "PUT", url, self._scopes, (200, 201, 202), headers={"Content-Type": manifest.media_type}, body=manifest.raw
        )
        stored = content_digest(answer.headers) or self.manifest_digest(tag or digest)
        if stored is None:
            raise RegistryRejected(f"{self.name} accepted the manifest {tag or digest}, but does not have it")
        if stored != digest:
            raise DigestMismatch(
                f"{self.name} stored the manifest {tag or digest} as {stored}, not as {digest}",
                remedy="The registry is broken or something in front of it is: do not use this tag; push again.",
            )
