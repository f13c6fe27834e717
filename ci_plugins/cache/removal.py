"""Removing directories whose contents others have chosen: layers, cache mounts.

Names of any kind and depth, whiteouts (character devices 0:0), directories of mode 0, files marked immutable. Neither
symbolic links nor mounts lead out.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512

#: ioctl_iflags(2)
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_APPEND_ONLY, _IMMUTABLE = 0x20, 0x10


@dataclass(frozen=True, slots=True)
class Removed:
    """`bytes` the disk got back; `problem` says what is still there and why, "" if nothing is."""

    bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Freed:
    """What a clean-up removed from this machine, or from a place where mounts are saved: `bytes` the disk got back, how
    many of what; `problems`: what could not be removed, and why."""

    bytes: int = 0
    blobs: int = 0
    snapshots: int = 0
    tocs: int = 0
    mounts: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: Freed) -> Freed:
        return Freed(
            self.bytes + other.bytes,
            self.blobs + other.blobs,
            self.snapshots + other.snapshots,
            self.tocs + other.tocs,
            self.mounts + other.mounts,
            self.problems + other.problems,
        )


def remove_tree(path: Path) -> Removed:
    """Remove a directory with all it holds; what cannot be removed stays, and the rest goes. Nothing else may write
    into it. One that is not there is removed already."""
    removal = _Removal()
    try:
        above = os.open(path.parent, _OPEN)
    except FileNotFoundError:
        return Removed()
    except OSError as error:
        return Removed(0, f"{path}: {error.strerror}")
    try:
        removal.remove(above, path.name)
    finally:
        os.close(above)
    return Removed(removal.bytes, f"{path}: {removal.problem}" if removal.problem else "")


def remove_file(path: Path) -> int:
    """The bytes the disk got back; 0 for what is not there. Raises OSError."""
    try:
        info = path.lstat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return _size(info)


@dataclass(slots=True)
class _Directory:
    """One on the way down: its name in the one above, what tells it from others, and what is still to be entered."""

    name: str
    identity: tuple[int, int]
    todo: list[str] = field(default_factory=list)


class _Removal:
    """One walk. Only the directory it is in is open, so any depth will do; the way up is checked."""

    def __init__(self) -> None:
        self.bytes = 0
        self.problem = ""

    def remove(self, above: int, name: str) -> None:
        here = self._enter(above, name, None)
        if here is None:
            return
        top = _Directory(name, _identity(here))
        way = [top]
        try:
            top.todo = self._empty(here)
            while True:
                if way[-1].todo:
                    entered = self._enter(here, way[-1].todo[-1], top.identity[0])
                    below = way[-1].todo.pop()
                    if entered is not None:
                        os.close(here)
                        here = entered
                        way.append(_Directory(below, _identity(here)))
                        way[-1].todo = self._empty(here)
                    continue
                done = way.pop()
                if not way:
                    break
                here, left = os.open("..", _OPEN, dir_fd=here), here
                os.close(left)
                if _identity(here) != way[-1].identity:
                    self.problem = "it was moved while it was being removed"
                    return
                self._attempt(here, done.name, os.rmdir)
        except OSError as error:
            self.problem = self.problem or f"{error.strerror}"
        finally:
            os.close(here)
        self._attempt(above, name, os.rmdir)

    def _enter(self, above: int, name: str, device: int | None) -> int | None:
        """Open a directory; None, with the reason noted, if that cannot be, or it is on another file system."""
        try:
            entered = _open(above, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problem = self.problem or f"{name}: {error.strerror}"
            return None
        info = os.fstat(entered)
        if device is not None and info.st_dev != device:
            self.problem = self.problem or f"{name}: another file system is mounted there"
            os.close(entered)
            return None
        self.bytes += info.st_blocks * _BLOCK
        return entered

    def _empty(self, directory: int) -> list[str]:
        """Remove all but directories; these are returned."""
        below = []
        with os.scandir(directory) as nodes:
            for node in list(nodes):
                if node.is_dir(follow_symlinks=False):
                    below.append(node.name)
                    continue
                try:
                    size = _size(node.stat(follow_symlinks=False))
                except FileNotFoundError:  # somebody else removes it too
                    continue
                if self._attempt(directory, node.name, os.unlink):
                    self.bytes += size
        return below

    def _attempt(self, directory: int, name: str, remove: Callable[..., None]) -> bool:
        try:
            try:
                remove(name, dir_fd=directory)
            except PermissionError:
                _allow(directory, name)
                remove(name, dir_fd=directory)
        except FileNotFoundError:
            return True
        except OSError as error:
            self.problem = self.problem or f"{name}: {error.strerror}"
            return False
        return True


def _open(above: int, name: str) -> int:
    """A directory, also one that its owner must not read."""
    try:
        return os.open(name, _OPEN, dir_fd=above)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
            return os.open(name, _OPEN, dir_fd=above)
        finally:
            os.close(handle)


def _allow(directory: int, name: str) -> None:
    """Take the marks from a file and the directory it is in that keep even root from removing it (chattr(1)), and make
    the directory writable. Raises OSError."""
    _clear_flags(directory)
    os.fchmod(directory, 0o700)
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return  # to open a device or a pipe may do anything, and directories are cleared when they are entered
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        _clear_flags(handle)
    finally:
        os.close(handle)


def _clear_flags(handle: int) -> None:
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(handle, _GET_FLAGS, struct.pack("i", 0)))
        if flags & (_IMMUTABLE | _APPEND_ONLY):
            fcntl.ioctl(handle, _SET_FLAGS, struct.pack("i", flags & ~(_IMMUTABLE | _APPEND_ONLY)))
    except OSError:  # a file system without such marks, or no right to take them: then removing says what is wrong
        return


def _identity(directory: int) -> tuple[int, int]:
    info = os.fstat(directory)
    return info.st_dev, info.st_ino


def _size(info: os.stat_result) -> int:
    """What the disk gets back with this name; a file with others keeps its bytes."""
    return info.st_blocks * _BLOCK if info.st_nlink <= 1 else 0
