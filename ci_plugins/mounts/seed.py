"""What a new cache mount begins with: a directory of a stage or an image (`from=`, `source=`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ci_plugins.errors import CopySourceNotFound
from ci_plugins.layer.copy import FileTree
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.extract import unpack_tar
from ci_plugins.layer.tar import write_tar
from ci_plugins.layer.unpack import Unpacker


def seed_items(tree: FileTree, source: str) -> Iterator[Item]:
    """What the directory `source` of `tree` holds, itself first, with paths relative to it; owners, modes and links
    are kept. Raises CopySourceNotFound."""
    top = tree.resolve(source)
    found = tree.lookup(top)
    if top and (found is None or found.type is not EntryType.DIRECTORY):
        what = "does not exist" if found is None else "is not a directory"
        raise CopySourceNotFound(
            f"the source of a cache mount, /{source}, {what} in what it is taken from",
            remedy="Correct source=, or leave from= and source= out: then the mount begins empty.",
        )
    yield Item(_moved(found or Entry("", EntryType.DIRECTORY, 0o755), ""))
    yield from _below(tree, top, "", {})


def place(items: Iterable[Item], directory: Path) -> None:
    """Write them into an empty directory. Raises CorruptLayer, ContextError, DiskFull, StateError."""
    with Unpacker(directory) as unpacker:
        unpack_tar(map(bytes, write_tar(items)), unpacker)


def _below(tree: FileTree, directory: str, relative: str, first: dict[object, str]) -> Iterator[Item]:
    for name in tree.children(directory):
        path, target = (f"{prefix}/{name}" if prefix else name for prefix in (directory, relative))
        entry = tree.lookup(path)
        if entry is None:
            continue
        identity = tree.identity(path)
        if identity is not None and first.setdefault(identity, target) != target:
            yield Item(Entry(target, EntryType.HARDLINK, link=first[identity]))
            continue
        has_content = entry.type is EntryType.FILE and entry.size > 0
        yield Item(_moved(entry, target), tree.content(path) if has_content else None)
        if entry.type is EntryType.DIRECTORY:
            yield from _below(tree, path, target, first)


def _moved(entry: Entry, path: str) -> Entry:
    return Entry(
        path, entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.link, entry.device
    )
