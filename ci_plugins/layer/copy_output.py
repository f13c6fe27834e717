"""A layer being composed over the layers below it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ci_plugins.errors import BuildError, ContextError
from ci_plugins.layer.copy_mode import Chmod
from ci_plugins.layer.copy_request import Content
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.names import WHITEOUT_PREFIX
from ci_plugins.layer.tree import LayerTree


@dataclass(frozen=True, slots=True)
class _Put:
    entry: Entry
    content: Content | None
    #: what is equal here is one file under several names
    group: object


def landed(path: str, entry: Entry, chmod: Chmod, owner: tuple[int, int] | None) -> Entry:
    """A source as it will be at `path` of the new layer."""
    mode = entry.mode
    if entry.type is not EntryType.SYMLINK:
        mode = chmod.apply(mode, entry.type is EntryType.DIRECTORY)
    uid, gid = owner or (entry.uid, entry.gid)
    return Entry(path, entry.type, mode, uid, gid, entry.size, entry.mtime_ns, entry.link, entry.device, entry.xattrs)


class Output:
    """New and changed paths over `target`. Paths are resolved: no element but the last may be a symlink."""

    def __init__(self, target: LayerTree) -> None:
        self._target = target
        self._puts: dict[str, _Put] = {}
        #: directories of the target that something else has taken the place of
        self._hidden: set[str] = set()

    def lookup(self, path: str) -> Entry | None:
        if put := self._puts.get(path):
            return put.entry
        if self._hidden and any(path == hidden or path.startswith(hidden + "/") for hidden in self._hidden):
            return None
        found = self._target.lookup(path)
        return found.entry if found else None

    def wrote(self, path: str) -> bool:
        return path in self._puts

    def put(self, entry: Entry, content: Content | None = None, group: object = None) -> None:
        """Add or replace. Entries of one `group` (not None) become hard links of each other. Raises ContextError."""
        name = entry.path.rpartition("/")[2]
        if name.startswith(WHITEOUT_PREFIX):
            raise ContextError(
                f"{entry.path} cannot be stored in an image: a layer reads names that begin with {WHITEOUT_PREFIX} "
                "as the removal of a file",
                remedy="Rename the file, or exclude it by .dockerignore.",
            )
        self._puts[entry.path] = _Put(entry, content, group)

    def link(self, entry: Entry, first: str) -> None:
        """Another name, `entry.path`, for the file that is at `first`. Raises BuildError if there is none."""
        if put := self._puts.get(first):
            if put.entry.type is EntryType.DIRECTORY:
                raise BuildError(f"/{entry.path} is a hard link to /{first}, which is a directory")
            group = put.group if put.group is not None else ("link", first)
            self._puts[first] = replace(put, group=group)
            self.put(replace(put.entry, path=entry.path), put.content, group)
        elif (existing := self.lookup(first)) is not None and existing.type is EntryType.FILE:
            self.put(Entry(entry.path, EntryType.HARDLINK, existing.mode, existing.uid, existing.gid, link=first))
        else:
            raise BuildError(f"/{entry.path} is a hard link to /{first}, which is not a file")

    def remove(self, path: str) -> None:
        """Make room for something else at `path`: what was below it is gone."""
        existing = self.lookup(path)
        self._puts.pop(path, None)
        if existing is not None and existing.type is EntryType.DIRECTORY:
            for other in [other for other in self._puts if other.startswith(path + "/")]:
                del self._puts[other]
            if self._target.lookup(path) is not None:
                self._hidden.add(path)

    def make_directories(self, path: str, mode: int, owner: tuple[int, int], now_ns: int) -> None:
        """The directory and those above it, where they are missing. Raises BuildError for a file in the way."""
        parts = path.split("/") if path else []
        for count in range(len(parts), 0, -1):
            existing = self.lookup("/".join(parts[:count]))
            if existing is None:
                continue
            if existing.type is not EntryType.DIRECTORY:
                raise BuildError(
                    f"cannot make the directory /{path}: /{existing.path} is not a directory",
                    remedy="Remove it in an earlier step, or choose another path.",
                )
            break
        else:
            count = 0
        for depth in range(count + 1, len(parts) + 1):
            self.put(Entry("/".join(parts[:depth]), EntryType.DIRECTORY, mode, *owner, mtime_ns=now_ns))

    def items(self) -> list[Item]:
        """Sorted by path, so that a directory comes before what it holds and a file before its other names."""
        items: list[Item] = []
        first_names: dict[object, str] = {}
        for path in sorted(self._puts):
            put = self._puts[path]
            first = path if put.group is None else first_names.setdefault(put.group, path)
            if first == path:
                items.append(Item(put.entry, put.content))
            else:
                items.append(Item(replace(put.entry, type=EntryType.HARDLINK, size=0, link=first)))
            if path in self._hidden and put.entry.type is EntryType.DIRECTORY:
                items.append(Item(Entry(path, EntryType.OPAQUE)))
        return items
