"""The local blob store: content-addressed files under one directory, and spools that become them.

    blobs/sha256/<hex>    complete blobs, immutable
    spool/<random>        blobs being written; left-overs of a process killed more than a minute ago are removed when
                          the store opens

A spool can be read while it is written: the compressor appends, uploaders follow at their own pace from the page
cache, and a failed upload starts again from any offset without a second compression.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ci_plugins.errors import CiPluginsError, SizeMismatch, StateError, state_errors
from ci_plugins.oci import Descriptor, Digest, hex_of
from ci_plugins.storage.blob import BLOCK, BlobSource


class LocalStore:
    """Blobs below a directory. Safe to share between threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._spool = root / "spool"
        with state_errors(root):
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._spool.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned_spools()

    def path(self, digest: Digest) -> Path:
        return self._blobs / hex_of(digest)

    def has(self, descriptor: Descriptor) -> bool:
        """A blob of another size than its descriptor's is not there: power was lost before it was on disk."""
        try:
            return self.path(descriptor.digest).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False

    def source(self, descriptor: Descriptor) -> BlobSource:
        return _StoredBlob(self.path(descriptor.digest), descriptor)

    def read(self, descriptor: Descriptor) -> bytes:
        """A small blob whole (a config, a manifest)."""
        return self.path(descriptor.digest).read_bytes()

    def put(self, data: bytes, descriptor: Descriptor) -> None:
        """Store a small blob whose digest the caller has computed."""
        if not self.has(descriptor):
            with self.spool() as spool:
                spool.write(data)
                spool.commit(descriptor)

    def spool(self) -> Spool:
        with state_errors(self._spool):
            return Spool(self)

    def adopt(self, path: Path, digest: Digest) -> None:
        """Take over a complete file of the same file system which the caller has verified; `path` is gone then."""
        with state_errors(path):
            os.replace(path, self.path(digest))

    def remove(self, digest: Digest) -> None:
        """Forget a blob; who is reading it reads on to its end."""
        with state_errors(self.path(digest)):
            self.path(digest).unlink(missing_ok=True)

    def _remove_abandoned_spools(self) -> None:
        # A spool is locked by its writer for as long as that lives: one that can be locked has none. The age covers
        # the moment between its creation and its lock.
        for path in self._spool.iterdir():
            try:
                with path.open("rb") as file:
                    if time.time() - os.fstat(file.fileno()).st_mtime < 60:
                        continue
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
            except (FileNotFoundError, BlockingIOError):
                continue


class Spool:
    """A blob being written by one thread and read by many (`BlobSource`). Use as a context manager: leaving it
    without `commit` gives up, and every reader gets the reason."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._path = store._spool / os.urandom(12).hex()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._changed = threading.Condition()
        self._size = 0
        self._descriptor: Descriptor | None = None
        self._failure: BaseException | None = None
        self._readers = 0
        self._closed = False

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._descriptor is None and self._failure is None:
            self.abort(error or CiPluginsError("the layer was given up before it was complete"))
        with self._changed:
            self._closed = True
            self._close_when_unused()

    @property
    def size(self) -> int:
        return self._size

    @property
    def descriptor(self) -> Descriptor | None:
        return self._descriptor

    @property
    def path(self) -> Path | None:
        """The file that holds the complete blob; None until then."""
        return self._store.path(self._descriptor.digest) if self._descriptor else None

    def write(self, data: bytes | memoryview) -> None:
        """Append. Only the one thread that writes the blob calls this. Raises DiskFull; `abort` is then to follow."""
        with state_errors(self._path):
            view, end = memoryview(data).cast("B"), self._size
            while view:
                written = os.pwrite(self._fd, view, end)
                view, end = view[written:], end + written
        with self._changed:
            self._size = end
            self._changed.notify_all()

    def commit(self, descriptor: Descriptor) -> None:
        """All bytes are written and the caller has hashed them: give the blob its name. Idempotent by content.

        Raises SizeMismatch if other than the written bytes are described.
        """
        if descriptor.size != self._size:
            raise SizeMismatch(f"{descriptor.digest} is to have {descriptor.size} bytes, but {self._size} were written")
        with state_errors(self._path):
            os.replace(self._path, self._store.path(descriptor.digest))
        with self._changed:
            self._descriptor = descriptor
            self._changed.notify_all()

    def abort(self, reason: BaseException) -> None:
        """Remove what was written; readers raise `reason`. A committed blob stays."""
        if self._descriptor is not None:
            return
        self._path.unlink(missing_ok=True)
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        with self._changed:
            closed = self._fd < 0
            self._readers += not closed
        if closed:
            if self._descriptor is None:
                raise self._failure or CiPluginsError("the spool is closed")
            yield from self._store.source(self._descriptor).blocks(offset)
            return
        try:
            while True:
                with self._changed:
                    while self._size <= offset and self._descriptor is None and self._failure is None:
                        self._changed.wait()
                    if self._failure is not None:
                        raise self._failure
                    available = self._size - offset
                    if available <= 0:
                        return
                block = os.pread(self._fd, min(available, BLOCK), offset)
                offset += len(block)
                yield block
        finally:
            with self._changed:
                self._readers -= 1
                self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._closed and self._readers == 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _StoredBlob:
    """A complete blob in its file."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    @property
    def path(self) -> Path:
        return self._path

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Raises StateError if the blob was removed, SizeMismatch if the file is not whole."""
        try:
            file = self._path.open("rb", buffering=0)
        except OSError as error:
            raise StateError(f"cannot read {self._path}: {error.strerror}") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            if size != self._descriptor.size:
                raise SizeMismatch(f"{self._path} has {size} bytes instead of {self._descriptor.size}")
            file.seek(offset)
            while block := file.read(BLOCK):
                yield block
