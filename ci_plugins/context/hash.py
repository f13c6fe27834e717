"""sha256 of many files."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ci_plugins.errors import ContextChanged, ContextError
from ci_plugins.oci import Digest

#: Small files cost system calls, for which Python's lock is the limit, whatever the number of threads; large ones are
#: hashed without it, and files that are not in the page cache wait for the disk.
_THREADS = 4
_BUFFER = 1 << 20
_BATCH_FILES = 256
_BATCH_BYTES = 16 << 20

_local = threading.local()


class FileToHash(NamedTuple):
    """A file as it was found: its path on this machine, size in bytes, modification time."""

    path: str
    size: int
    mtime_ns: int


def digest_files(files: Sequence[FileToHash]) -> list[Digest]:
    """In the order given. No symlink is followed at the end of a path.

    Raises ContextChanged for a file that is no longer as it was found, ContextError for one that cannot be read.
    """
    batches = list(_batches(files))
    if len(batches) <= 1:
        return [digest for batch in batches for digest in _digest_batch(batch)]
    with ThreadPoolExecutor(min(_THREADS, len(batches)), "hash") as pool:
        return [digest for done in pool.map(_digest_batch, batches) for digest in done]


def _batches(files: Sequence[FileToHash]) -> Iterator[list[FileToHash]]:
    batch: list[FileToHash] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.size
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _digest_batch(batch: list[FileToHash]) -> list[Digest]:
    return [_digest(file) for file in batch]


def _digest(file: FileToHash) -> Digest:
    buffer, view = _buffer()
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise _changed(file) from error
        raise ContextError(
            f"cannot read {file.path}: {error.strerror}",
            remedy="Give read permission, or exclude the file by .dockerignore.",
        ) from error
    try:
        digest = hashlib.sha256()
        total = 0
        # a file of the size that was found needs one read; only one that fills the buffer can go on
        while count := os.readv(fd, (buffer,)):
            digest.update(view[:count])
            total += count
            if total == file.size and count < _BUFFER:
                break
        status = os.fstat(fd)
    except OSError as error:
        raise ContextError(f"cannot read {file.path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if total != file.size or status.st_size != file.size or status.st_mtime_ns != file.mtime_ns:
        raise _changed(file)
    return Digest("sha256:" + digest.hexdigest())


def _changed(file: FileToHash) -> ContextChanged:
    return ContextChanged(f"{file.path} changed while the build read it")


def _buffer() -> tuple[bytearray, memoryview]:
    """One a thread, for as long as the thread lives."""
    try:
        buffers: tuple[bytearray, memoryview] = _local.buffers
    except AttributeError:
        buffer = bytearray(_BUFFER)
        buffers = _local.buffers = buffer, memoryview(buffer)
    return buffers
