"""An OCI image layout in a directory (image spec, image-layout.md): a destination of pushes and an origin of pulls.

    oci-layout               {"imageLayoutVersion": "1.0.0"}; locked by whoever changes index.json
    index.json               the images, tags as annotations
    blobs/sha256/<hex>       blobs and manifests
    .ci-plugins-<random>     a blob being written; removed when its writer is gone

A directory that is a layout already is added to; nothing else that is in it is touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from ci_plugins.errors import DigestMismatch, ImageNotFound, SizeMismatch, StateError, UsageError, state_errors
from ci_plugins.events import ActiveSpan
from ci_plugins.oci import (
    Descriptor,
    Digest,
    ImageIndex,
    Manifest,
    Reference,
    hex_of,
    media,
    parse_manifest_or_index,
    sha256_digest,
)
from ci_plugins.storage.blob import BLOCK, BlobSource
from ci_plugins.storage.layout_index import LayoutIndex

_VERSION = "1.0.0"
_TEMPORARY = ".ci-plugins-"


@runtime_checkable
class FileSource(Protocol):
    """A blob source whose bytes are a file that never changes, once they are complete."""

    @property
    def path(self) -> Path | None: ...

    @property
    def descriptor(self) -> Descriptor | None: ...

    def blocks(self, offset: int = 0) -> Iterator[bytes]: ...


class OciLayout:
    """`Destination` and `ImageOrigin`. Made on the first write; safe to share between threads and processes."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if there is something at the path that is not an OCI layout."""
        self._path = path
        self._blobs = path / "blobs" / "sha256"
        self._index = LayoutIndex(path)
        self._ready = False
        self._check()

    @property
    def name(self) -> str:
        return str(self._path)

    # -- destination ------------------------------------------------------------------------------------------------

    def has_blob(self, descriptor: Descriptor) -> bool:
        try:
            return self._blob(descriptor.digest).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False

    def mount_blob(self, descriptor: Descriptor, origin: Reference) -> bool:
        """Never: a directory knows no other repositories."""
        return False

    def put_blob(self, source: BlobSource, span: ActiveSpan) -> Descriptor:
        """Take over a blob, while it is still being written too. Sets `bytes`, `digest`, `result` of the span.

        A blob that is a file of this file system is linked, not copied; it is read and hashed all the same.
        Raises DigestMismatch, SizeMismatch, DiskFull, StateError, and what made the source's writer give up.
        """
        span.set(destination=self.name)
        known = source.descriptor
        if known and self.has_blob(known):
            span.set(bytes=known.size, digest=known.digest, result="exists")
            return known
        self._create()
        descriptor = self._linked(source, span) if isinstance(source, FileSource) else None
        descriptor = descriptor or self._copied(source, span)
        span.set(bytes=descriptor.size, digest=descriptor.digest, result="uploaded")
        return descriptor

    def manifest_digest(self, tag: str) -> str | None:
        entry = self._index.find(tag)
        return str(entry.get("digest")) if entry else None

    def put_manifest(self, manifest: Manifest | ImageIndex, tag: str | None) -> None:
        """Store the manifest and list it in index.json, under the tag if there is one.

        Without a tag it is listed too, since what index.json does not reach is garbage to other tools; a manifest
        that was only listed so is taken off when an index that holds it is put. Raises StateError if a blob is missing.
        """
        children = manifest.manifests if isinstance(manifest, ImageIndex) else (manifest.config, *manifest.layers)
        for child in children:
            if not child.urls and not self.has_blob(child):
                raise StateError(
                    f"{self.name} does not hold {child.digest} ({child.size} bytes), needed by {tag or 'the manifest'}",
                    remedy="Something removed it while the image was written: run the command again.",
                )
        self._create()
        descriptor = manifest.descriptor
        with self._temporary() as (temporary, fd), state_errors(temporary):
            _write_all(fd, manifest.raw)
            os.replace(temporary, self._blob(descriptor.digest))
        self._index.add(descriptor, tag, {child.digest for child in children})

    # -- origin -----------------------------------------------------------------------------------------------------

    def manifest(self, reference: Reference) -> Manifest | ImageIndex:
        """By digest, else by tag; registry and repository of the reference are not looked at.

        Raises ImageNotFound, DigestMismatch, StateError.
        """
        entry = self._index.find(reference.target)
        digest = reference.digest or (Digest(str(entry.get("digest"))) if entry else None)
        if digest is None:
            tags = ", ".join(self.tags()) or "none"
            raise ImageNotFound(f"{self.name} has no image tagged {reference.tag!r} (tags there: {tags})")
        try:
            raw = self._blob(digest).read_bytes()
        except FileNotFoundError as error:
            raise ImageNotFound(f"{self.name} has no manifest {digest}") from error
        if sha256_digest(raw) != digest:
            raise DigestMismatch(f"{self._blob(digest)} is damaged: its digest is {sha256_digest(raw)}")
        try:
            return parse_manifest_or_index(raw, str(entry.get("mediaType", "")) if entry else media.OCI_MANIFEST)
        except ValueError as error:
            raise ImageNotFound(f"{digest} in {self.name} is not an image manifest: {error}") from error

    def blob(self, reference: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        path = self._blob(descriptor.digest)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise ImageNotFound(f"{self.name} has no blob {descriptor.digest}") from error
        actual, size = hashlib.sha256(), 0
        with file:
            while block := file.read(BLOCK):
                actual.update(block)
                size += len(block)
                if size > descriptor.size:
                    break
                yield block
        if size != descriptor.size:
            found = os.stat(path).st_size
            raise SizeMismatch(f"{path} has {found} bytes instead of {descriptor.size}")
        if "sha256:" + actual.hexdigest() != descriptor.digest:
            raise DigestMismatch(f"{path} is damaged: its digest is sha256:{actual.hexdigest()}")

    def tags(self) -> list[str]:
        """In the order of index.json."""
        return self._index.tags()

    # -- blobs ------------------------------------------------------------------------------------------------------

    def _linked(self, source: FileSource, span: ActiveSpan) -> Descriptor | None:
        """None if a link is not possible: another file system, or one that has no links."""
        descriptor = _verified(source, source.blocks(), span)
        temporary = self._path / f"{_TEMPORARY}{os.urandom(8).hex()}"
        try:
            os.link(source.path or "", temporary)
        except OSError:
            return None
        try:
            with state_errors(temporary):
                os.replace(temporary, self._blob(descriptor.digest))
        finally:
            temporary.unlink(missing_ok=True)  # renaming one of two links of a file onto the other leaves both
        return descriptor

    def _copied(self, source: BlobSource, span: ActiveSpan) -> Descriptor:
        with self._temporary() as (temporary, fd):
            descriptor = _verified(source, _written(source.blocks(), fd, temporary), span)
            with state_errors(temporary):
                os.replace(temporary, self._blob(descriptor.digest))
        return descriptor

    # -- files ------------------------------------------------------------------------------------------------------

    def _blob(self, digest: Digest) -> Path:
        return self._blobs / hex_of(digest)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, int]]:
        path = self._path / f"{_TEMPORARY}{os.urandom(8).hex()}"
        with state_errors(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield path, fd
        finally:
            os.close(fd)
            path.unlink(missing_ok=True)

    def _check(self) -> None:
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(
                f"{self.name} cannot be an OCI image layout: {(error.strerror or str(error)).lower()}",
                remedy="Name a directory that is empty, does not exist yet, or is an OCI image layout.",
            ) from error
        if "oci-layout" in names:
            self._check_version()
        elif any(not name.startswith(_TEMPORARY) for name in names):
            raise UsageError(
                f"{self.name} is not an OCI image layout, and it is not empty",
                remedy="Name an empty or new directory: nothing that is there was touched.",
            )

    def _check_version(self) -> None:
        path = self._path / "oci-layout"
        try:
            value = json.loads(path.read_bytes())
            version = value.get("imageLayoutVersion") if isinstance(value, dict) else None
        except (ValueError, OSError) as error:
            raise UsageError(f"cannot read {path}: {error}", remedy="Name another directory.") from error
        if version != _VERSION:
            raise UsageError(f"{path} is of version {version!r}; only {_VERSION} is known")

    def _create(self) -> None:
        if self._ready:
            return
        with state_errors(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            layout = self._path / "oci-layout"
            if not layout.exists():
                # Linked, not replaced: the file is the lock, so everybody must have the same one.
                with self._temporary() as (temporary, fd), suppress(FileExistsError):
                    _write_all(fd, json.dumps({"imageLayoutVersion": _VERSION}).encode())
                    os.link(temporary, layout)
            self._blobs.mkdir(parents=True, exist_ok=True)
        self._index.create()
        self._ready = True

    def _remove_abandoned(self) -> None:
        # As in the local store: who writes a file holds its lock; the age covers the moment before it has it.
        for path in self._path.glob(_TEMPORARY + "*"):
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                if time.time() - os.fstat(file.fileno()).st_mtime > 60:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)


def _verified(source: BlobSource, blocks: Iterator[bytes], span: ActiveSpan) -> Descriptor:
    """Hash all blocks; the source's descriptor is final after them. Raises DigestMismatch, SizeMismatch."""
    actual, size = hashlib.sha256(), 0
    for block in blocks:
        actual.update(block)
        size += len(block)
        known = source.descriptor
        span.progress(size, known.size if known else None)
    descriptor = source.descriptor
    if descriptor is None:
        raise StateError("a blob ended without a descriptor")
    if size != descriptor.size:
        raise SizeMismatch(f"{descriptor.digest} is to have {descriptor.size} bytes, but {size} came")
    if "sha256:" + actual.hexdigest() != descriptor.digest:
        raise DigestMismatch(f"{descriptor.digest} was announced, but sha256:{actual.hexdigest()} came")
    return descriptor


def _written(blocks: Iterator[bytes], fd: int, path: Path) -> Iterator[bytes]:
    for block in blocks:
        with state_errors(path):
            _write_all(fd, block)
        yield block


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
