"""sha256 of files as they were found; as a program, a process that helps to hash the many files of a context.

    python -I -S hash_helper.py

Opening and reading a small file is a handful of system calls, around each of which Python's lock is given up and taken
again: threads that share it are slower together than one alone. So it is processes that share the work
(context/hash_helpers.py). Imports little on purpose: starting a helper has to cost less than what it takes over.

Both ways, a message is its length (4 bytes, little endian) and a value in the format of `marshal`:

    asked       [(path, size, mtime_ns), …]
    answered    what `hash_file` returns for each, in that order; None if one of them cannot be read or has changed,
                for the asker to find out which and why

A helper ends with its standard input.
"""

from __future__ import annotations

import marshal
import os
import sys
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes half as long to import as all the rest
    from typing import BinaryIO

BUFFER_SIZE = 1 << 20
LENGTH_SIZE = 4
#: a FIFO that took a file's place would let an open wait for ever
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


#: path, size in bytes, modification time (ns)
Batch = list[tuple[str, int, int]]
Answers = list[tuple[str, int, int, int]]


class FileChanged(Exception):
    """A file is not, or no longer, of the size and the time that were found."""


def hash_file(path: str, size: int, mtime_ns: int, buffer: memoryview) -> tuple[str, int, int, int]:
    """Digest as OCI writes it, device, inode and time of the last change (ns) of the file that was read.

    No symlink is followed at the end of the path. `buffer` is of BUFFER_SIZE. Raises FileChanged, OSError.
    """
    fd = os.open(path, _FLAGS)
    try:
        digest = sha256()
        total = 0
        # a file of the size that was found needs one read; only one that fills the buffer can go on
        while count := os.readv(fd, (buffer,)):
            digest.update(buffer[:count])
            total += count
            if total == size and count < BUFFER_SIZE:
                break
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if total != size or status.st_size != size or status.st_mtime_ns != mtime_ns:
        raise FileChanged(path)
    return "sha256:" + digest.hexdigest(), status.st_dev, status.st_ino, status.st_ctime_ns


def new_buffer() -> memoryview:
    return memoryview(bytearray(BUFFER_SIZE))


def pack(value: Batch | Answers | None) -> bytes:
    """A message."""
    body = marshal.dumps(value)
    return len(body).to_bytes(LENGTH_SIZE, "little") + body


def serve(asked: BinaryIO, answered: BinaryIO) -> None:
    """Answer until there is nothing more, or nobody who listens."""
    buffer = new_buffer()
    while header := asked.read(LENGTH_SIZE):
        files = marshal.loads(asked.read(int.from_bytes(header, "little")))
        answer: Answers | None
        try:
            answer = [hash_file(path, size, mtime_ns, buffer) for path, size, mtime_ns in files]
        except (FileChanged, OSError):
            answer = None
        answered.write(pack(answer))
        answered.flush()


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    finally:
        os._exit(0)  # the interpreter's own shutdown has nothing to do here, and nobody reads complaints
