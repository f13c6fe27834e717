"""Entries onto a disk: a snapshot, which overlayfs takes as a lower directory.

Directories get their modes, owners and times last: what is put into them changes their times, and a set-group-id bit
would change what is put into them.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from ci_plugins.errors import CorruptLayer, state_errors
from ci_plugins.layer.assemble import Fate
from ci_plugins.layer.beneath import Beneath
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.names import OVERLAY_OPAQUE
from ci_plugins.layer.tar import Buffer
from ci_plugins.layer.toc import Toc

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {
    EntryType.CHARACTER: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.WHITEOUT: stat.S_IFCHR,
}
#: The archive's fault: names no file system takes.
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP, errno.ENOTDIR)
#: Pieces of at least this many zero bytes become holes.
_HOLE = 1 << 16


class Unpacker:
    """Writes the entries of one layer below `root`, an empty directory. Use as a context manager.

    Methods raise CorruptLayer, DiskFull and StateError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with state_errors(root):
            self._beneath = Beneath(root)
            fd = self._beneath.directory("")
            os.fchmod(fd, 0o700)
            # Bits of a mode that creating a file with it does not set for sure.
            acl = "system.posix_acl_default" in os.listxattr(fd)
            self._unset = 0o7777 if acl else 0o7000 | _umask()
        self._own = os.geteuid(), os.getegid()
        #: hard links whose file had not come yet
        self._pending: set[str] = set()

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._beneath.__exit__(*exception)

    def place(self, entry: Entry, fate: Fate, content: Iterable[Buffer]) -> None:
        """Write one entry. What `content` raises passes as it is."""
        if entry.type is EntryType.FILE:
            self._file(entry, fate, content)
            return
        try:
            if entry.type is EntryType.OPAQUE:
                self._beneath.directory(entry.path)
            elif fate is not Fate.SKIPPED:
                self._node(entry, fate)
        except OSError as error:
            self._failed(error, entry.path)

    def later(self, link: Entry, fate: Fate) -> None:
        """A hard link to a file that has not come yet, or is in a layer below."""
        self._pending.add(link.path)
        try:
            if fate is Fate.REPLACES:
                self._parent(link.path, fate)
        except OSError as error:
            self._failed(error, link.path)

    def finish(self, toc: Toc) -> None:
        """What has to wait for the last entry: links to files that came later, and how directories look."""
        present = {entry.path for entry in toc.entries if entry.type is not EntryType.OPAQUE}
        path = ""
        try:
            for entry in toc.entries:
                path = entry.path
                if entry.type is EntryType.HARDLINK and path in self._pending and entry.link in present:
                    self._link(entry)
            for path in toc.implied_parents():
                os.fchmod(self._beneath.directory(path), 0o755)
            for entry in toc.entries:
                path = entry.path
                if entry.type is EntryType.OPAQUE:
                    os.setxattr(self._beneath.directory(path), OVERLAY_OPAQUE, b"y")
                elif entry.type is EntryType.DIRECTORY:
                    dress(self._beneath.directory(path), entry, self._own, 0o7777)
        except OSError as error:
            self._failed(error, path)

    # -- one entry -----------------------------------------------------------------------------------------------------

    def _file(self, entry: Entry, fate: Fate, content: Iterable[Buffer]) -> None:
        try:
            parent, name = self._parent(entry.path, fate)
            fd = os.open(name, _CREATE, entry.mode & 0o777, dir_fd=parent)
        except OSError as error:
            self._failed(error, entry.path)
        try:
            holes = False
            for piece in content:
                try:
                    holes |= _write(fd, piece)
                except OSError as error:
                    self._failed(error, entry.path)
            try:
                if holes:
                    os.ftruncate(fd, entry.size)
                dress(fd, entry, self._own, self._unset)
            except OSError as error:
                self._failed(error, entry.path)
        finally:
            os.close(fd)

    def _node(self, entry: Entry, fate: Fate) -> None:
        kind = entry.type
        if kind is EntryType.DIRECTORY:
            if fate is Fate.REPLACES:
                self._parent(entry.path, fate)
            self._beneath.directory(entry.path)
            return
        parent, name = self._parent(entry.path, fate)
        if kind is EntryType.HARDLINK:
            self._link(entry)
            self._pending.discard(entry.path)
        elif kind is EntryType.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self._dress_by_name(parent, name, entry)
        else:
            os.mknod(name, _NODES[kind] | entry.mode, os.makedev(*entry.device), dir_fd=parent)
            if kind is not EntryType.WHITEOUT:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.chmod(name, entry.mode, dir_fd=parent)
                self._dress_by_name(parent, name, entry)

    def _dress_by_name(self, parent: int, name: str, entry: Entry) -> None:
        """Owner, attributes and time of what cannot be opened."""
        if (entry.uid, entry.gid) != self._own:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        _set_xattrs(f"/proc/self/fd/{parent}/{name}", entry)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _link(self, entry: Entry) -> None:
        # Both directories must be open at once, and asking for one may close the other.
        parent, name = self._beneath.parent(entry.path)
        parent = os.dup(parent)
        try:
            above, target = self._beneath.parent(entry.link)
            os.link(target, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def _parent(self, path: str, fate: Fate) -> tuple[int, str]:
        parent, name = self._beneath.parent(path)
        if fate is not Fate.REPLACES:
            return parent, name
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        self._beneath.forget()
        return self._beneath.parent(path)

    def _failed(self, error: OSError, path: str) -> NoReturn:
        if error.errno in _BAD_NAMES:
            raise CorruptLayer(f"the layer holds {path[:200]!r}, which cannot exist: {error.strerror}") from error
        with state_errors(f"{self._root}/{path}"):
            raise error


def dress(fd: int, entry: Entry, owner: tuple[int, int], unset: int) -> None:
    """Give an open file or directory of `owner` the entry's owner, mode (if it has bits of `unset`), attributes and
    time. In this order: a new owner loses set-id bits and capabilities."""
    if (entry.uid, entry.gid) != owner:
        os.fchown(fd, entry.uid, entry.gid)
    if entry.mode & unset or unset == 0o7777:
        os.fchmod(fd, entry.mode)
    if entry.xattrs:
        _set_xattrs(fd, entry)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _set_xattrs(where: int | str, entry: Entry) -> None:
    follow = isinstance(where, int)
    for name, value in entry.xattrs.items():
        try:
            os.setxattr(where, name, value, follow_symlinks=follow)
        except OSError as error:
            # As containerd does: not every file system knows every kind (ACLs, user.* of a symlink). A file's
            # capabilities are another matter: without them its program does not work.
            if name == "security.capability" or error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _write(fd: int, piece: Buffer) -> bool:
    """Write, or leave a hole (True) for a large piece of nothing but zero bytes."""
    size = len(piece)
    if size >= _HOLE and not (piece[0] or piece[-1] or piece[size // 2]) and not bytes(piece).strip(b"\0"):
        os.lseek(fd, size, os.SEEK_CUR)
        return True
    written = os.write(fd, piece)
    while written < size:
        written += os.write(fd, piece[written:])
    return False


def _umask() -> int:
    """Read without changing it for other threads (proc(5))."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777
