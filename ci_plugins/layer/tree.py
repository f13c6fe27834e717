"""A stack of tables of contents read as one file system: what overlayfs would show, without a single file at hand.

A layer says of a path: here it is; it is gone (whiteout); all below it from lower layers is gone (opaque). A path whose
ancestors the archive leaves out implies them: they keep the metadata of the lower layer's directory, and hide a lower
file of that name. Whiteouts never touch what their own layer adds (OCI image spec, layer.md, "Whiteouts").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ci_plugins.errors import BuildError, CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType

if TYPE_CHECKING:
    from ci_plugins.layer.toc import Toc

#: as many symlinks as containerd follows before it calls them a loop
_MAX_LINKS = 255


@dataclass(frozen=True, slots=True)
class Found:
    """A path as the stack shows it, and the number of the layer (lowest is 0) whose snapshot holds it.

    A hard link is shown as the file it is: type, mode, size … of its first name, `first_name` says which that is
    (else it is the entry's own path): equal (layer, first_name) means the same file.
    """

    entry: Entry
    layer: int
    first_name: str


class _Index:
    """One layer, by path. Built when the layer is first asked."""

    __slots__ = ("_built", "children", "entries", "gone", "opaque", "toc")

    def __init__(self, toc: Toc) -> None:
        self.toc = toc
        self._built = False
        self.entries: dict[str, Entry] = {}
        #: names a directory holds in this layer; a key for every directory, implied ones too
        self.children: dict[str, list[str]] = {}
        self.gone: set[str] = set()
        self.opaque: set[str] = set()

    def build(self) -> _Index:
        if self._built:
            return self
        entries: dict[str, Entry] = {}
        children: dict[str, list[str]] = {"": []}
        gone: set[str] = set()
        opaque: set[str] = set()
        for entry in self.toc.entries:
            path, kind = entry.path, entry.type
            if kind is EntryType.WHITEOUT:
                gone.add(path)
                _enter(children, path.rpartition("/")[0])
            elif kind is EntryType.OPAQUE:
                opaque.add(path)
                _enter(children, path)
            else:
                if path and path not in entries:
                    parent, _, name = path.rpartition("/")
                    if parent not in children:
                        _enter(children, parent)
                    if kind is not EntryType.DIRECTORY:
                        children[parent].append(name)
                if kind is EntryType.DIRECTORY and path not in children:
                    _enter(children, path)
                entries[path] = entry
        self.entries, self.children, self.gone, self.opaque = entries, children, gone, opaque
        self._built = True
        return self


def _enter(children: dict[str, list[str]], directory: str) -> None:
    """Note a directory and all above it."""
    if directory not in children:
        children[directory] = []
        parent, _, name = directory.rpartition("/")
        _enter(children, parent)
        children[parent].append(name)


@dataclass(frozen=True, slots=True)
class _Node:
    """A path of the merged view; for a directory the layers that contribute to it, topmost first."""

    found: Found
    layers: tuple[int, ...]


class LayerTree:
    """Layers, lowest first. Immutable; answers are kept, so asking twice is cheap. Safe from many threads."""

    def __init__(self, layers: Sequence[Toc] = ()) -> None:
        self._layers: tuple[_Index, ...] = tuple(_Index(toc) for toc in layers)
        self._nodes: dict[str, _Node | None] = {}

    def push(self, toc: Toc) -> LayerTree:
        """This tree with one more layer on top; what is indexed stays indexed."""
        tree = LayerTree()
        tree._layers = (*self._layers, _Index(toc))
        return tree

    def __len__(self) -> int:
        """How many layers."""
        return len(self._layers)

    def lookup(self, path: str) -> Found | None:
        """What is at `path`, a symlink itself and not what it points to; None if nothing is. Symlinks in the middle
        are not followed either: `resolve` first where they may be."""
        node = self._node(path)
        return node.found if node else None

    def entry(self, path: str) -> Entry | None:
        """`lookup`, for those who do not ask where it is from."""
        found = self.lookup(path)
        return found.entry if found else None

    def children(self, directory: str) -> list[str]:
        """Sorted names in a directory; empty for what is none."""
        node = self._node(directory)
        if node is None:
            return []
        candidates = {name for number in node.layers for name in self._index(number).children.get(directory, ())}
        prefix = directory + "/" if directory else ""
        return sorted(name for name in candidates if self._node(prefix + name) is not None)

    def walk(self, directory: str = "") -> Iterator[Found]:
        """All below a directory, depth first by name, a directory before what it holds; not the directory itself."""
        prefix = directory + "/" if directory else ""
        for name in self.children(directory):
            node = self._node(prefix + name)
            if node is not None:
                yield node.found
                if node.layers:
                    yield from self.walk(prefix + name)

    def resolve(self, path: str, follow_last: bool = True) -> str:
        """The path without symlinks, as a process with this root would reach it: absolute targets start at the root,
        ".." stops there, what does not exist is taken as written. Raises BuildError for a loop."""

        def target_of(candidate: str) -> str | None:
            node = self._node(candidate)
            return node.found.entry.link if node and node.found.entry.type is EntryType.SYMLINK else None

        return resolve_links(path, target_of, follow_last)

    def read_kept(self, path: str) -> bytes:
        """Content of a file that the TOCs keep ("etc/passwd", "etc/group"); b"" where it is not, or is not a file."""
        found = self.lookup(self.resolve(path))
        if found is None or found.entry.type is not EntryType.FILE:
            return b""
        kept = self._layers[found.layer].toc.kept
        return kept.get(found.entry.path) or kept.get(found.first_name) or b""

    # -- merging ----------------------------------------------------------------------------------------------------

    def _index(self, number: int) -> _Index:
        return self._layers[number].build()

    def _node(self, path: str) -> _Node | None:
        try:
            return self._nodes[path]
        except KeyError:
            pass
        if path:
            parent = self._node(path.rpartition("/")[0])
            node = self._merge(path, parent.layers) if parent and parent.layers else None
        else:
            node = self._merge("", range(len(self._layers) - 1, -1, -1))
            if node is None:
                node = _Node(Found(_implied(""), 0, ""), ())
        self._nodes[path] = node
        return node

    def _merge(self, path: str, parents: Iterable[int]) -> _Node | None:
        """Overlay `path` over the layers of its parent directory, topmost first."""
        entry: Entry | None = None
        layers: list[int] = []
        holder = -1
        opaque = False
        for number in parents:
            index = self._index(number)
            here = index.entries.get(path)
            if here is not None and here.type is not EntryType.DIRECTORY:
                if layers:
                    break
                return self._leaf(here, number)
            if here is not None or path in index.children:
                if not opaque:
                    layers.append(number)
                if here is not None and entry is None:
                    entry, holder = here, number
            opaque = opaque or path in index.opaque
            # below an opaque directory only its own mode and owner are still of interest
            if path in index.gone or (opaque and entry is not None):
                break
        if not layers:
            return None
        if entry is None:
            entry, holder = _implied(path), layers[-1]
        return _Node(Found(entry, holder, path), tuple(layers))

    def _leaf(self, entry: Entry, number: int) -> _Node:
        if entry.type is not EntryType.HARDLINK:
            return _Node(Found(entry, number, entry.path), ())
        first = self._first_name(entry, number)
        if first is None:
            raise CorruptLayer(f"layer {number + 1}: {entry.path} is a hard link to {entry.link}, which is not there")
        return _Node(Found(replace(first.entry, path=entry.path), number, first.first_name), ())

    def _first_name(self, entry: Entry, number: int) -> Found | None:
        """The file a hard link stands for: in its own layer, else in those below, from where extraction copies it."""
        entries = self._index(number).entries
        seen = {entry.path}
        while entry.type is EntryType.HARDLINK:
            target = entries.get(entry.link)
            if target is None:
                below = LayerTree()
                below._layers = self._layers[:number]
                found = below.lookup(below.resolve(entry.link, follow_last=False))
                return Found(found.entry, number, entry.link) if found else None
            if target.path in seen:
                return None
            seen.add(target.path)
            entry = target
        return Found(entry, number, entry.path)


def _implied(path: str) -> Entry:
    return Entry(path, EntryType.DIRECTORY, 0o755)


def resolve_links(path: str, target_of: Callable[[str], str | None], follow_last: bool = True) -> str:
    """Follow the symlinks of `path` inside a root; `target_of` gives a path's link target, None for what is no link.
    Raises BuildError."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    followed = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        done.append(part)
        target = target_of("/".join(done)) if todo or follow_last else None
        if target is None:
            continue
        followed += 1
        if followed > _MAX_LINKS:
            raise BuildError(f"/{path.lstrip('/')}: too many levels of symbolic links")
        done.pop()
        if target.startswith("/"):
            done.clear()
        todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return "/".join(done)
