"""The changes in an overlayfs upper directory as the items of a layer (kernel: overlayfs.rst; OCI: layer.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ci_plugins.errors import SandboxError
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.names import belongs_in_layer

_NONE: Mapping[str, bytes] = MappingProxyType({})
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
#: With these the upper directory does not hold what it shows; the mount options switch them off.
_INCOMPLETE = ("redirect", "metacopy")
_SECOND = 1_000_000_000
_TYPES = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHARACTER,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}


def diff_items(upper: Path) -> Iterator[Item]:
    """Everything below `upper`, a directory before what it holds, names sorted: the same tree gives the same items.

    A character device 0:0 is a whiteout, an opaque directory gets its OPAQUE item right after it. The second and
    later names of a file are hard links. Sockets are left out, and so is the root directory itself, as in the layers
    Docker writes. Files must not change any more: their contents are read later, by path.
    """
    root = os.fspath(upper)
    seen: dict[tuple[int, int], str] = {}
    # A stack in place of recursion: trees may be deeper than Python's calls.
    pending = [("", iter(_listing(root, "")))]
    while pending:
        prefix, listing = pending[-1]
        node = next(listing, None)
        if node is None:
            pending.pop()
            continue
        path = prefix + node.name
        status = node.stat(follow_symlinks=False)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            continue
        if kind is EntryType.CHARACTER and status.st_rdev == 0:
            yield Item(Entry(path, EntryType.WHITEOUT))
            continue
        where = f"{root}/{path}"
        names = os.listxattr(where, follow_symlinks=False)
        yield _item(where, path, kind, status, names, seen)
        if kind is EntryType.DIRECTORY:
            if names and _is_opaque(where, names):
                yield Item(Entry(path, EntryType.OPAQUE))
            pending.append((path + "/", iter(_listing(root, path))))


def _listing(root: str, directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(f"{root}/{directory}") as listing:
        return sorted(listing, key=_name)


def _name(node: os.DirEntry[str]) -> str:
    return node.name


def _item(
    where: str,
    path: str,
    kind: EntryType,
    status: os.stat_result,
    names: list[str],
    seen: dict[tuple[int, int], str],
) -> Item:
    size, link, device = 0, "", (0, 0)
    if status.st_nlink > 1 and kind is not EntryType.DIRECTORY:
        first = seen.setdefault((status.st_dev, status.st_ino), path)
        if first is not path:
            kind, link, names = EntryType.HARDLINK, first, []
    if kind is EntryType.FILE:
        size = status.st_size
    elif kind is EntryType.SYMLINK:
        link = os.readlink(where)
    elif kind in (EntryType.CHARACTER, EntryType.BLOCK):
        device = os.major(status.st_rdev), os.minor(status.st_rdev)
    entry = Entry(
        path,
        kind,
        status.st_mode & 0o7777,
        status.st_uid,
        status.st_gid,
        size,
        status.st_mtime_ns // _SECOND * _SECOND,
        link,
        device,
        _xattrs(where, names) if names else _NONE,
    )
    return Item(entry, where if size else None)


def _xattrs(where: str, names: list[str]) -> Mapping[str, bytes]:
    for name in names:
        if name.startswith(("trusted.overlay.", "user.overlay.")) and name.endswith(_INCOMPLETE):
            raise SandboxError(
                f"{where} has the attribute {name}: its contents are in a lower directory",
                remedy="Mount with redirect_dir=off,metacopy=off.",
            )
    kept = {name: os.getxattr(where, name, follow_symlinks=False) for name in names if belongs_in_layer(name)}
    return MappingProxyType(kept) if kept else _NONE


def _is_opaque(where: str, names: list[str]) -> bool:
    return any(name in names and os.getxattr(where, name, follow_symlinks=False) == b"y" for name in _OPAQUE)
