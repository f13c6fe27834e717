"""Directories and files put into a layer so that overlayfs shows them, with nothing around them changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.sandbox.union import Union

_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A place in the container where something of the host's is mounted; `path` as the image's programs write it."""

    path: str
    is_directory: bool


def graft_mount_points(union: Union, points: Iterable[MountPoint], layer: Path) -> dict[str, str]:
    """Make in `layer`, which will be the topmost lower, the mount points that the image lacks; returns where each is
    once symbolic links are followed.

    The runtime would make them itself, but in the upper directory, and so they would end in the image. What the image
    has hidden by a whiteout is lacking too. Nothing is written for an image that has all of them.
    """
    resolved = {}
    for point in points:
        there = union.resolve(point.path)
        resolved[point.path] = f"/{there.path}"
        if there.places and there.is_directory == point.is_directory:
            continue
        if point.is_directory:
            graft_directory(union, there.path, layer)
        else:
            parent = os.path.dirname(there.path)
            graft_directory(union, parent, layer)
            (layer / there.path).touch()
            (layer / there.path).chmod(_FILE_MODE)
            _copy_ancestors(union, parent, layer)
    return resolved


def graft_directory(union: Union, path: str, layer: Path, owner: tuple[int, int] = (0, 0)) -> None:
    """Make the directory `path` (resolved, relative) in `layer`; the part of it that the image has keeps the image's
    mode, owner, times and attributes, the rest belongs to `owner` (uid, gid)."""
    walked = ""
    for name in filter(None, path.split("/")):
        walked = f"{walked}/{name}".lstrip("/")
        directory = layer / walked
        if not directory.exists():
            directory.mkdir()
            directory.chmod(_DIRECTORY_MODE)
            os.chown(directory, *owner)
    _copy_ancestors(union, path, layer)


def copy_attributes(source: Path, target: Path) -> None:
    """Owner, mode, extended attributes (access control lists among them) and times of a directory."""
    info = source.lstat()
    os.chown(target, info.st_uid, info.st_gid)
    target.chmod(stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_ancestors(union: Union, path: str, layer: Path) -> None:
    """From `path` up to the root: making something in a directory has changed its times."""
    while True:
        original = union.directory(path)
        if original is not None:
            copy_attributes(original, layer / path)
        if not path:
            return
        path = os.path.dirname(path)
