"""What is in a mount's directory, and what of it may travel."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.index import Node

#: inode, size, mtime, ctime: a file of the same signature holds the same bytes
Signature = tuple[int, int, int, int]

_SECOND = 1_000_000_000
_TYPES = {stat.S_IFREG: EntryType.FILE, stat.S_IFDIR: EntryType.DIRECTORY, stat.S_IFLNK: EntryType.SYMLINK}


@dataclass(frozen=True, slots=True)
class Found:
    """A path as it is on disk. `used` is when it was last read or written, in seconds since the epoch: exact where
    access times are kept, as they are by default (mount(8), relatime). Hard links name the first path of their file."""

    path: str
    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    used: int
    size: int
    link: str
    signature: Signature


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept of one mount: `size` in bytes, `age` in seconds without use."""

    size: int
    age: float


def walk(root: Path) -> list[Found]:
    """The directory itself, then all it holds, sorted, a directory before what is in it. Sockets, pipes and devices
    are passed over, and what vanishes while it is looked at. Raises OSError for a directory that cannot be read."""
    info = root.lstat()
    return [_found(str(root), "", EntryType.DIRECTORY, info, {}), *_below(str(root), "", {})]


def state_of(listing: Sequence[Found]) -> str:
    """Equal as long as nothing has changed; access times, and times of directories, do not count."""
    digest = hashlib.sha256()
    for one in listing:
        signature = None if one.type is EntryType.DIRECTORY else one.signature
        digest.update(repr((one.path, one.type, one.mode, one.uid, one.gid, one.link, signature)).encode())
    return digest.hexdigest()


F = TypeVar("F", Found, Node)


def within(listing: Sequence[F], limits: Limits, now: float) -> list[F]:
    """Without the files used longest ago, until the limits are kept; directories stay."""
    files = [one for one in listing if one.type is EntryType.FILE]
    left_out: set[str] = {one.path for one in files if now - one.used > limits.age}
    total = 0
    for one in sorted(files, key=lambda one: one.used, reverse=True):
        total += one.size
        if total > limits.size:
            left_out.add(one.path)
    if not left_out:
        return list(listing)
    return [
        one
        for one in listing
        if one.path not in left_out and not (one.type is EntryType.HARDLINK and one.link in left_out)
    ]


def _below(root: str, directory: str, first: dict[tuple[int, int], str]) -> Iterator[Found]:
    try:
        with os.scandir(f"{root}/{directory}") as nodes:
            ordered = sorted(nodes, key=lambda node: node.name)
    except FileNotFoundError:
        return
    for node in ordered:
        try:
            info = node.stat(follow_symlinks=False)
            kind = _TYPES.get(stat.S_IFMT(info.st_mode))
            if kind is None:
                continue
            path = f"{directory}/{node.name}" if directory else node.name
            found = _found(f"{root}/{path}", path, kind, info, first)
        except FileNotFoundError:
            continue
        yield found
        if kind is EntryType.DIRECTORY:
            yield from _below(root, path, first)


def _found(where: str, path: str, kind: EntryType, info: os.stat_result, first: dict[tuple[int, int], str]) -> Found:
    size, link = 0, ""
    if kind is EntryType.SYMLINK:
        link = os.readlink(where)
    elif kind is EntryType.FILE:
        size = info.st_size
        if info.st_nlink > 1 and (name := first.setdefault((info.st_dev, info.st_ino), path)) != path:
            kind, link, size = EntryType.HARDLINK, name, 0
    signature = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    used = max(info.st_atime_ns, info.st_mtime_ns) // _SECOND
    return Found(
        path, kind, info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_mtime_ns, used, size, link, signature
    )
