"""What a snapshot takes from the layers below it, once all of them are known.

Layers are unpacked side by side, each knowing only itself. Two things need the others: a directory that a layer's
archive does not mention must look as it does below (else /tmp loses its sticky bit in the merged view), and a hard
link to a file of a layer below needs that file here (overlayfs cannot link across layers).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from ci_plugins.errors import CorruptLayer, state_errors
from ci_plugins.layer.beneath import Beneath
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.names import belongs_in_layer
from ci_plugins.layer.unpack import dress

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def adopt_parents(root: Path, implied: Iterable[str], lookup: Callable[[str], Entry | None]) -> None:
    """Give directories without an entry of their own the mode, owner, attributes and time they have below.

    `lookup` answers for the layers below `root`, without following a last symlink; what it does not know, or what is
    no directory there, stays as it is. Raises StateError.
    """
    with state_errors(root), Beneath(root) as beneath:
        own = os.geteuid(), os.getegid()
        for path in implied:
            entry = lookup(path)
            if entry is not None and entry.type is EntryType.DIRECTORY:
                dress(beneath.directory(path), entry, own, 0o7777)


def copy_up_links(root: Path, links: Iterable[tuple[str, str]], find: Callable[[str], Path | None]) -> tuple[str, ...]:
    """Make the hard links (path, target) whose targets are files of layers below, and copies of those targets.

    `find` gives the place of a target's file in the snapshot that holds it. Returns the directories made for the
    copies: they are implied too, so this comes before `adopt_parents`. Raises CorruptLayer for a target that is
    nowhere, DiskFull, StateError.
    """
    made: list[str] = []
    with state_errors(root), Beneath(root) as beneath:
        for path, target in links:
            parent, name = beneath.parent(path)
            parent = os.dup(parent)
            try:
                if not _exists(root, target):
                    source = find(target)
                    if source is None:
                        raise CorruptLayer(f"the layer's {path!r} is a hard link to {target!r}, which no layer holds")
                    made.extend(_missing_directories(root, target))
                    _copy_up(source, beneath, target)
                above, first = beneath.parent(target)
                os.link(first, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)
        for path in made:
            os.fchmod(beneath.directory(path), 0o755)
    return tuple(made)


def _exists(root: Path, path: str) -> bool:
    return os.path.lexists(root / path)


def _missing_directories(root: Path, path: str) -> list[str]:
    missing: list[str] = []
    while (path := path.rpartition("/")[0]) and not _exists(root, path):
        missing.insert(0, path)
    return missing


def _copy_up(source: Path, beneath: Beneath, target: str) -> None:
    parent, name = beneath.parent(target)
    status = os.lstat(source)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptLayer(f"the layer has a hard link to {target!r}, which is no regular file in the layers below")
    xattrs = {key: os.getxattr(source, key) for key in os.listxattr(source) if belongs_in_layer(key)}
    entry = Entry(
        target,
        EntryType.FILE,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
        xattrs=xattrs,
    )
    with open(os.open(source, _READ), "rb", buffering=0) as reader:
        with open(os.open(name, _CREATE, 0o600, dir_fd=parent), "wb", buffering=0) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            dress(writer.fileno(), entry, (os.geteuid(), os.getegid()), 0o7777)
