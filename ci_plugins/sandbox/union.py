"""A stack of extracted layers read as the one file system overlayfs will make of it, without mounting anything."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.errors import SandboxError

#: As the kernel's (path_resolution(7)).
_MAX_SYMLINKS = 40


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a path leads to inside the stack.

    `path` has no symbolic link in it, is relative to the root and "" for the root itself. `places` are the paths on
    this machine that make up what is there, topmost layer first: several for a merged directory, one for anything
    else, none if there is nothing yet.
    """

    path: str
    places: tuple[Path, ...]

    @property
    def is_directory(self) -> bool:
        return bool(self.places) and stat.S_ISDIR(self.places[0].lstat().st_mode)


@dataclass(frozen=True, slots=True)
class Union:
    """`lowers` are snapshots, topmost first; whiteouts are character devices 0:0, opaque directories carry the
    attribute trusted.overlay.opaque (Documentation/filesystems/overlayfs.rst)."""

    lowers: Sequence[Path]

    def resolve(self, path: str) -> Resolved:
        """Follow `path` as a process whose root is the stack would, the last component too; what does not exist is
        taken as written. Raises SandboxError for a loop of symbolic links or a file used as a directory."""
        pending = path.split("/")[::-1]
        trail = [Resolved("", tuple(self.lowers))]
        links = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                trail = trail[:-1] or trail
                continue
            here = trail[-1]
            if here.places and not here.is_directory:
                raise SandboxError(f"/{here.path} is not a directory in the image, but {path} needs it to be one")
            places = _child(here.places, name)
            if places and stat.S_ISLNK(places[0].lstat().st_mode):
                links += 1
                if links > _MAX_SYMLINKS:
                    raise SandboxError(f"too many symbolic links in the image on the way to {path}")
                target = os.readlink(places[0])
                pending += target.split("/")[::-1]
                trail = trail[:1] if target.startswith("/") else trail
            else:
                trail.append(Resolved(f"{here.path}/{name}".lstrip("/"), places))
        return trail[-1]

    def directory(self, path: str) -> Path | None:
        """Where the mode, owner and times of the directory `path` (resolved, relative) come from, if it exists."""
        places: tuple[Path, ...] = tuple(self.lowers)
        for name in filter(None, path.split("/")):
            places = _child(places, name)
        return places[0] if places and stat.S_ISDIR(places[0].lstat().st_mode) else None


def _child(directories: Sequence[Path], name: str) -> tuple[Path, ...]:
    """What the merged directory holds under `name`: see Resolved.places."""
    found: list[Path] = []
    for directory in directories:
        place = directory / name
        try:
            info = place.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(info.st_mode):
            found.append(place)
            if _is_opaque(place):
                break
        elif found or (stat.S_ISCHR(info.st_mode) and info.st_rdev == 0):
            break
        else:
            return (place,)
    return tuple(found)


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque", follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
