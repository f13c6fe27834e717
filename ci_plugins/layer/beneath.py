"""Directories below a root, reached one component at a time and never through a symlink: no path leads outside."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ci_plugins.errors import CorruptLayer

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Kept open; several layers are worked on at once, and processes often may open no more than 1024 files.
_MOST_OPEN = 64


class Beneath:
    """Descriptors of directories by `Entry.path`. Use as a context manager. Methods raise OSError and CorruptLayer."""

    def __init__(self, root: Path) -> None:
        self._open = {"": os.open(root, _OPEN)}

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, *exception: object) -> None:
        self.forget()
        os.close(self._open.pop(""))

    def parent(self, path: str) -> tuple[int, str]:
        """(descriptor of the directory that holds the path, name in it); the directory is made if it is missing.

        A descriptor is good until the next call.
        """
        directory, _, name = path.rpartition("/")
        fd = self._open.get(directory)
        return (self.directory(directory) if fd is None else fd), name

    def directory(self, path: str) -> int:
        """A directory, made (mode 0700) with its parents where missing."""
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if len(self._open) >= _MOST_OPEN:
            self.forget()
        above, fd = "", self._open[""]
        for name in path.split("/"):
            here = f"{above}/{name}" if above else name
            known = self._open.get(here)
            if known is None:
                known = _enter(fd, name, here)
                if above and self._open.get(above) != fd:
                    os.close(fd)
                if len(self._open) < _MOST_OPEN or here == path:
                    self._open[here] = known
            above, fd = here, known
        return fd

    def forget(self) -> None:
        """Close all but the root: something was removed or replaced."""
        for path in [path for path in self._open if path]:
            os.close(self._open.pop(path))


def _enter(parent: int, name: str, path: str) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
            raise CorruptLayer(f"the layer holds something below {path!r}, which is no directory") from error
        # A whiteout: the directory of the layers below is gone, and a new one begins here.
        os.unlink(name, dir_fd=parent)
    os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, _OPEN, dir_fd=parent)
