"""Protocols of storage: where blobs come from and go to. Backends never import each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ci_plugins.events import ActiveSpan
from ci_plugins.oci import Descriptor, ImageIndex, Manifest, Reference

#: Bytes are moved in blocks of about this size.
BLOCK = 1 << 20


class BlobSource(Protocol):
    """The bytes of one blob, complete or still being written. Many readers, each at its own pace, any offset."""

    @property
    def descriptor(self) -> Descriptor | None:
        """None while the blob is being written; final once `blocks` has ended."""

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Blocks from an offset to the end. Waits for bytes that are not written yet.

        Raises what made the writer give up, if it did.
        """


class ImageOrigin(Protocol):
    """Where images are pulled from."""

    def manifest(self, reference: Reference) -> Manifest | ImageIndex:
        """Raises ImageNotFound, AuthenticationFailed, RegistryUnreachable, DigestMismatch …"""

    def blob(self, reference: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes, checked against digest and size while they stream.

        Raises DigestMismatch or SizeMismatch after the last good byte: use nothing before the iterator has ended.
        """


class Destination(Protocol):
    """Where an image is pushed to: one repository of a registry, or one OCI layout. All methods are thread safe."""

    @property
    def name(self) -> str:
        """For people: `host/repository` or a path."""

    def has_blob(self, descriptor: Descriptor) -> bool: ...

    def mount_blob(self, descriptor: Descriptor, origin: Reference) -> bool:
        """Take the blob over from another repository without moving bytes; False if that is not possible."""

    def put_blob(self, source: BlobSource, span: ActiveSpan) -> Descriptor:
        """Send a blob, retrying from what the other side has; returns once it is confirmed there.

        Works while the source is still being written. Reports progress to `span`.
        """

    def manifest_digest(self, tag: str) -> str | None:
        """The digest a tag points to now, None if there is no such tag."""

    def put_manifest(self, manifest: Manifest | ImageIndex, tag: str | None) -> None:
        """Publish under its digest, and move `tag` to it. Every blob under it must have been confirmed before."""
