"""The changes in an overlayfs upper directory as the items of a layer (kernel: overlayfs.rst; OCI: layer.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk made of one path: its item, for an opaque directory a second one.

    They hold for as long as the path is the same inode, not changed since (st_ctime: no system call sets it), and the
    inode has the same first name. `names`: ((device, inode), first name).
    """

    names: tuple[tuple[int, int], str]
    changed_ns: int
    items: tuple[Item, ...]


def diff_items(upper: Path, seen: dict[str, Seen] | None = None, settled: int = 0) -> Iterator[Item]:
    """Everything below `upper`, a directory before what it holds, names sorted: the same tree gives the same items.

    A character device 0:0 is a whiteout, an opaque directory gets its OPAQUE item right after it. The second and
    later names of a file are hard links. Sockets are left out, and so is the root directory itself, as in the layers
    Docker writes. Files must not change any more: their contents are read later, by path.

    `seen`, from earlier walks, spares looking closer at what is unchanged. With `settled`, a time in nanoseconds of the
    epoch, the tree may still be written to: what was last changed before is noted in `seen`, what goes is passed over.
    """
    root = os.fspath(upper)
    known = {} if seen is None else seen
    first_names: dict[tuple[int, int], str] = {}
    # A stack in place of recursion: trees may be deeper than Python's calls.
    pending = [("", iter(_listing(root, "")))]
    while pending:
        prefix, listing = pending[-1]
        node = next(listing, None)
        if node is None:
            pending.pop()
            continue
        path = prefix + node.name
        try:
            status = node.stat(follow_symlinks=False)
            found = known.get(path)
            is_directory = stat.S_ISDIR(status.st_mode)
            inode = status.st_dev, status.st_ino
            first = path if status.st_nlink == 1 or is_directory else first_names.setdefault(inode, path)
            if found is None or found.changed_ns != status.st_ctime_ns or found.names != (inode, first):
                found = Seen((inode, first), status.st_ctime_ns, _items(f"{root}/{path}", path, status, first))
                if status.st_ctime_ns < settled:
                    known[path] = found
            below = _listing(root, path) if is_directory else ()
        except FileNotFoundError:
            if settled:
                continue
            raise
        yield from found.items
        if below:
            pending.append((path + "/", iter(below)))


def _listing(root: str, directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(f"{root}/{directory}") as listing:
        return sorted(listing, key=_name)


def _name(node: os.DirEntry[str]) -> str:
    return node.name


def _items(where: str, path: str, status: os.stat_result, first: str) -> tuple[Item, ...]:
    """`first` is the first name of the file."""
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return ()
    if kind is EntryType.CHARACTER and status.st_rdev == 0:
        return (Item(Entry(path, EntryType.WHITEOUT)),)
    size, link, device = 0, "", (0, 0)
    names = [] if first != path else os.listxattr(where, follow_symlinks=False)
    if first != path:
        kind, link = EntryType.HARDLINK, first
    elif kind is EntryType.FILE:
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
    item = Item(entry, where if size else None)
    if kind is EntryType.DIRECTORY and names and _is_opaque(where, names):
        return item, Item(Entry(path, EntryType.OPAQUE))
    return (item,)


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
