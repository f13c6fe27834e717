"""From the members of an archive, in their order, to the paths a layer holds: one entry a path."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.names import OPAQUE_MARKER, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX
from ci_plugins.layer.toc import Toc, sorted_entries

#: The kernel's PATH_MAX: a longer path could not be opened in any container.
_MAX_PATH = 4095
#: As the kernel: more symlinks in one path are a loop.
_MAX_LINKS = 40
#: Directories that may be replaced by something else within one layer: each costs a search through all entries.
_MAX_REPLACED = 1000


class Fate(enum.Enum):
    """What an entry does to what the layer holds already."""

    NEW = enum.auto()
    #: a directory that exists gets this entry's metadata
    MERGED = enum.auto()
    #: takes the place of something else, which is gone with all below it
    REPLACES = enum.auto()
    #: changes nothing on disk
    SKIPPED = enum.auto()


def interpret(member: Entry) -> Entry | None:
    """A member as what it means in a layer: `.wh.` names become whiteouts. None for AUFS's own files."""
    if WHITEOUT_PREFIX not in member.path:
        # On disk, device 0:0 is a whiteout whoever made it.
        if member.type is EntryType.CHARACTER and member.device == (0, 0):
            return Entry(member.path, EntryType.WHITEOUT)
        return member
    parent, slash, name = member.path.rpartition("/")
    if not name.startswith(WHITEOUT_PREFIX):
        return member
    if name == OPAQUE_MARKER:
        return Entry(parent, EntryType.OPAQUE)
    if name.startswith(WHITEOUT_META_PREFIX):
        return None
    hidden = name[len(WHITEOUT_PREFIX) :]
    if hidden in ("", ".", ".."):
        raise CorruptLayer(f"the archive holds a whiteout of nothing: {member.path!r}")
    return Entry(parent + slash + hidden, EntryType.WHITEOUT)


class Assembly:
    """Collects a layer's entries.

    Symlinks of this layer in an entry's parents are followed inside the layer, as extraction into a root directory
    would; those of layers below are not known here and not followed (Docker's and containerd's overlay unpackers
    see one layer at a time too). Raises CorruptLayer.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._opaque: set[str] = set()
        #: directories that exist because something is below them
        self._implied = {""}
        #: parents as written → where they are; forgotten whenever something is replaced
        self._parents: dict[str, str] = {"": ""}
        #: files → their further names, and hard links whose file had not come yet
        self._links: dict[str, list[str]] = {}
        self._forward: list[str] = []
        self._replaced = 0

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def add(self, entry: Entry) -> tuple[Entry, Fate]:
        """Take an entry up; returns it with the path it really has."""
        path, kind = entry.path, entry.type
        if kind is EntryType.OPAQUE:
            place = self._place(path)
            self._opaque.add(place)
            return (entry if place == path else replace(entry, path=place)), Fate.SKIPPED
        parent, _, name = path.rpartition("/")
        known = self._parents.get(parent)
        place = self._place(parent) if known is None else known
        if place != parent:
            path = f"{place}/{name}" if place else name
            entry = replace(entry, path=path)
        if len(path) > _MAX_PATH:
            raise CorruptLayer(f"the archive holds a path of {len(path)} characters: {path[:80]!r} …")
        if kind is EntryType.HARDLINK:
            entry = self._linked(entry)
        if path in self._entries or path in self._implied:
            return entry, self._collide(entry)
        self._entries[path] = entry
        return entry, Fate.NEW

    def toc(self, kept: Mapping[str, bytes]) -> Toc:
        """What the layer holds. Of `kept`, only what still is a regular file."""
        self._resolve_forward()
        files = {path: data for path, data in kept.items() if self._type(path) is EntryType.FILE}
        return Toc(sorted_entries(self._entries.values(), self._opaque), MappingProxyType(files))

    def _type(self, path: str) -> EntryType | None:
        entry = self._entries.get(path)
        return entry.type if entry else None

    # -- parents ---------------------------------------------------------------------------------------------------

    def _place(self, directory: str) -> str:
        """Where a parent directory is, once symlinks are followed; it and those above it exist from now on."""
        place = self._follow(directory, exist=True)
        self._parents[directory] = place
        return place

    def _follow(self, directory: str, exist: bool) -> str:
        todo, done, followed = directory.split("/")[::-1], "", 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            path = f"{done}/{part}" if done else part
            target = self._symlink(path)
            if target is None:
                if exist:
                    self._exist(path)
                done = path
                continue
            followed += 1
            if followed > _MAX_LINKS:
                raise CorruptLayer(f"the archive holds a path through a loop of symlinks: {directory!r}")
            if target.startswith("/"):
                done = ""
            todo.extend(target.split("/")[::-1])
        return done

    def _symlink(self, path: str) -> str | None:
        entry = self._entries.get(path)
        if entry is not None and entry.type is EntryType.HARDLINK:
            entry = self._entries.get(entry.link)
        return entry.link if entry is not None and entry.type is EntryType.SYMLINK else None

    def _exist(self, path: str) -> None:
        kind = self._type(path)
        if kind is EntryType.WHITEOUT:
            # The directory below is gone, and a new one begins here without an entry of its own.
            del self._entries[path]
            self._opaque.add(path)
            kind = None
        if kind is None:
            self._implied.add(path)
        elif kind is not EntryType.DIRECTORY:
            raise CorruptLayer(f"the archive holds something below {path!r}, which is no directory")

    # -- several entries of one path -------------------------------------------------------------------------------

    def _linked(self, entry: Entry) -> Entry:
        """A hard link whose `link` is the first name of the file."""
        parent, _, name = entry.link.rpartition("/")
        known = self._parents.get(parent)
        place = self._follow(parent, exist=False) if known is None else known
        target = self._first_name(f"{place}/{name}" if place else name)
        if target == entry.path or not self._may_be_linked(target):
            raise _bad_link(entry, target)
        if target in self._entries:
            self._links.setdefault(target, []).append(entry.path)
        else:
            self._forward.append(entry.path)
        return entry if target == entry.link else replace(entry, link=target)

    def _first_name(self, path: str) -> str:
        for _ in range(_MAX_LINKS):
            entry = self._entries.get(path)
            if entry is None or entry.type is not EntryType.HARDLINK:
                return path
            path = entry.link
        raise CorruptLayer(f"the archive holds hard links that lead to no file: {path!r}")

    def _may_be_linked(self, path: str) -> bool:
        return path not in self._implied and self._type(path) not in (EntryType.DIRECTORY, EntryType.WHITEOUT)

    def _resolve_forward(self) -> None:
        """Links that came before their file, or whose file is in a layer below."""
        for path in self._forward:
            link = self._entries.get(path)
            if link is None or link.type is not EntryType.HARDLINK:
                continue
            target = self._first_name(link.link)
            if not self._may_be_linked(target):
                raise _bad_link(link, target)
            self._entries[path] = replace(link, link=target)

    def _collide(self, entry: Entry) -> Fate:
        path, old = entry.path, self._entries.get(entry.path)
        was_directory = old is None or old.type is EntryType.DIRECTORY
        if entry.type is EntryType.WHITEOUT:
            # A whiteout is about the layers below: what this layer holds stays (OCI layer.md, "Whiteouts").
            if was_directory:
                self._opaque.add(path)
            return Fate.SKIPPED
        if entry.type is EntryType.DIRECTORY and was_directory:
            self._entries[path] = entry
            self._implied.discard(path)
            return Fate.MERGED
        if not path:
            raise CorruptLayer("the archive has a root that is no directory")
        if was_directory:
            self._forget_below(path)
        elif old is not None and path in self._links:
            self._keep_linked(old)
        # The file or whiteout that was here had hidden the directory of the layers below.
        (self._opaque.add if entry.type is EntryType.DIRECTORY else self._opaque.discard)(path)
        self._entries[path] = entry
        self._parents = {"": ""}
        return Fate.REPLACES

    def _forget_below(self, path: str) -> None:
        self._replaced += 1
        if self._replaced > _MAX_REPLACED:
            raise CorruptLayer("the archive replaces directories over and over")
        below = path + "/"
        for gone in [name for name in self._entries if name.startswith(below)]:
            old = self._entries.pop(gone)
            if gone in self._links:
                self._keep_linked(old)
        self._implied = {name for name in self._implied if name != path and not name.startswith(below)}
        self._opaque = {name for name in self._opaque if not name.startswith(below)}

    def _keep_linked(self, old: Entry) -> None:
        """A file with further names loses its first: the next becomes the first."""
        names = [name for name in self._links.pop(old.path) if self._type(name) is EntryType.HARDLINK]
        for index, name in enumerate(names):
            self._entries[name] = replace(old, path=name) if not index else replace(self._entries[name], link=names[0])
        if len(names) > 1:
            self._links[names[0]] = names[1:]


def _bad_link(entry: Entry, target: str) -> CorruptLayer:
    return CorruptLayer(f"the archive holds {entry.path!r}, a hard link to {target!r}, which is no file")
