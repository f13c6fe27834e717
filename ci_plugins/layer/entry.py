"""What a layer is made of: entries (tar members and whiteouts) and where their bytes come from."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import BinaryIO

_NONE: Mapping[str, bytes] = MappingProxyType({})


class EntryType(enum.StrEnum):
    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    HARDLINK = "h"
    CHARACTER = "c"
    BLOCK = "b"
    FIFO = "p"
    #: `path` of the layers below is gone (in a tar: `dir/.wh.name`)
    WHITEOUT = "w"
    #: all that the layers below hold in the directory `path` is gone (in a tar: `dir/.wh..wh..opq`)
    OPAQUE = "o"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of one layer.

    `path` is relative to the root, separated by "/", normalised (no leading "/", no ".", no ".."), decoded with
    surrogateescape so that any byte sequence survives; the root directory itself is "". `mode` holds the permission
    bits only (0o7777). `link` is a symlink's target as written, or the path of a hard link's first name.
    """

    path: str
    type: EntryType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    #: (major, minor) of a device
    device: tuple[int, int] = (0, 0)
    #: full names ("security.capability", "user.x"), values as stored
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: _NONE)


@dataclass(frozen=True, slots=True)
class Item:
    """An entry and its bytes: a path on this machine, the bytes themselves, or a function that opens them.

    Only files of size > 0 have content. The tar writer reads exactly `entry.size` bytes.
    """

    entry: Entry
    content: str | os.PathLike[str] | bytes | Callable[[], BinaryIO] | None = None
