"""What others have saved of a mount that is here already: files that are missing are added, nothing else is touched.

Steps of other builds may be using the directory. So a file appears whole, and only where there is none of its name; it
is put into directories that are opened one below the other, since a symbolic link of a step must not lead out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.index import MountIndex, Node
from ci_plugins.mounts.merge import contents, packs_for, subset

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND = 1_000_000_000


def lacking(index: MountIndex, here: Collection[str], base: MountIndex | None) -> MountIndex:
    """What of `index` is not `here`, with the directories it is in. What was here, as `base` says, was removed."""
    there, before = contents(index), contents(base) if base else {}
    missing = {path for path in there if path not in here and before.get(path) != there[path]}
    files = {node.path for node in index.nodes if node.type is not EntryType.DIRECTORY and node.path in missing}
    above = {"", *(parent for path in files for parent in _parents(path))}
    nodes = subset(index, files | above)
    return replace(index, nodes=nodes, packs=packs_for(nodes, index.packs))


def place(nodes: Sequence[Node], new: Path, data: Path) -> int:
    """Give what is in `new` its names in `data` too, where these are free. `nodes` are what is in `new`, sorted.
    Returns how many files came. Raises OSError."""
    placing = _Placing(new, data)
    try:
        for node in nodes:
            if node.path:
                placing.place(node)
    finally:
        placing.close()
    return placing.count


class _Placing:
    """On its way through the tree; open are the directories from the top down to where it is."""

    def __init__(self, new: Path, data: Path) -> None:
        self._new = new
        self._open: list[tuple[str, int]] = [("", os.open(data, _DIRECTORY))]
        #: directories made here, that get their own times when they are full
        self._made: dict[str, Node] = {}
        self.count = 0

    def place(self, node: Node) -> None:
        parent, _, name = node.path.rpartition("/")
        self._up_to(parent)
        at, directory = self._open[-1]
        if at != parent:
            return  # what is there under the parent's name is no directory
        if node.type is EntryType.DIRECTORY:
            self._enter(node, name, directory)
            return
        try:
            os.link(self._new / node.path, name, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            return
        self.count += node.type is EntryType.FILE

    def close(self) -> None:
        while self._open:
            self._leave()

    def _enter(self, node: Node, name: str, above: int) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
            self._made[node.path] = node
        except FileExistsError:
            pass
        try:
            self._open.append((node.path, os.open(name, _DIRECTORY, dir_fd=above)))
        except OSError:
            self._made.pop(node.path, None)

    def _up_to(self, parent: str) -> None:
        while len(self._open) > 1 and not f"{parent}/".startswith(f"{self._open[-1][0]}/"):
            self._leave()

    def _leave(self) -> None:
        path, directory = self._open.pop()
        try:
            if node := self._made.pop(path, None):
                os.fchown(directory, node.uid, node.gid)
                os.fchmod(directory, node.mode)
                os.utime(directory, ns=(node.used * _SECOND, node.mtime_ns))
        finally:
            os.close(directory)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
