"""sha256 of many files."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from ci_plugins.context.hash_helper import Answers, Batch, FileChanged, hash_file, new_buffer
from ci_plugins.context.hash_helpers import helping
from ci_plugins.errors import ContextChanged, ContextError
from ci_plugins.oci import Digest

#: Opening and reading a file takes as long as hashing this many bytes; with it, work is measured in bytes.
_PER_FILE = 16 << 10
_BATCH = 4 << 20
#: Work for which another process is worth its start.
_HELPER = 64 << 20
#: More than the cores of a small machine: files that are not in the page cache wait for the disk.
_MOST_HELPERS = 3


class FileToHash(NamedTuple):
    """A file as it was found: its path on this machine, size in bytes, modification time."""

    path: str
    size: int
    mtime_ns: int


#: The file that was read: its digest, its device and inode, when anything about it was last changed (ns). A plain
#: tuple: that is how helpers send it, and there are many.
HashedFile = tuple[Digest, int, int, int]


def hash_files(files: Sequence[FileToHash]) -> list[HashedFile]:
    """In the order given. No symlink is followed at the end of a path.

    Raises ContextChanged for a file that is no longer as it was found, ContextError for one that cannot be read.
    """
    batches = list(_batches(files))
    todo = deque(enumerate(batches))
    done: dict[int, Answers] = {}
    with helping(_helpers_for(files), todo, done):
        while todo:
            try:
                number, batch = todo.popleft()
            except IndexError:
                break  # a helper was faster
            done[number] = _hash_batch(batch)
    answers = (done[number] if number in done else _hash_batch(batch) for number, batch in enumerate(batches))
    return cast(list[HashedFile], [answer for answered in answers for answer in answered])


def _helpers_for(files: Sequence[FileToHash]) -> int:
    work = len(files) * _PER_FILE + sum(file.size for file in files)
    return min(_MOST_HELPERS, work // _HELPER)


def _batches(files: Sequence[FileToHash]) -> Iterator[Batch]:
    batch: Batch = []
    work = 0
    for path, size, mtime_ns in files:
        batch.append((path, size, mtime_ns))
        work += size + _PER_FILE
        if work >= _BATCH:
            yield batch
            batch, work = [], 0
    if batch:
        yield batch


def _hash_batch(batch: Batch) -> Answers:
    buffer = new_buffer()
    answers = []
    for path, size, mtime_ns in batch:
        try:
            answers.append(hash_file(path, size, mtime_ns, buffer))
        except FileChanged as error:
            raise _changed(path) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise _changed(path) from error
            raise ContextError(
                f"cannot read {path}: {error.strerror}",
                remedy="Give read permission, or exclude the file by .dockerignore.",
            ) from error
    return answers


def _changed(path: str) -> ContextChanged:
    return ContextChanged(f"{path} changed while the build read it")
