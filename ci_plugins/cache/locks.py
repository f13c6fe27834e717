"""Locks on directories, flock(2)'s on the directories themselves: they end with the process, hold between threads that
each take their own, and outlast all that is removed from inside."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_directory(directory: Path, how: int) -> int | None:
    """A descriptor that holds the lock (LOCK_SH, LOCK_EX) until it is closed; None if somebody has it otherwise, or
    the directory is gone, was moved meanwhile or cannot be opened. Raises OSError where there are no locks."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if is_there(directory, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_there(path: Path, descriptor: int) -> bool:
    """Whether what is open is what the path names now."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False
