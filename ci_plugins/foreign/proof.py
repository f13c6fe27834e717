"""Proof that a layer somebody else wrote holds what our step would write: compared path by path, file by file.

Times are no part of it. A directory that the layer only repeats, as builders do with all above a new file, does not
count if it looks as it did below.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ci_plugins.layer.copy import FileTree, copy_items, workdir_items
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree
from ci_plugins.layer.users import resolve_owner, resolve_user
from ci_plugins.oci import Digest
from ci_plugins.plan.steps import CopyWork, Step, WorkdirWork
from ci_plugins.transfer.pull import LayerFetcher, StoredLayer

_BLOCK = 1 << 20
#: bytes an archive has for each entry and at its end at least
_HEADER = 512


class LayerProof:
    """Compares layers with steps. A layer is read once, while it is downloaded, and nothing is extracted."""

    def __init__(self, fetcher: LayerFetcher, context: Callable[[], FileTree]) -> None:
        self._fetcher, self._context = fetcher, context
        self._trees: dict[Digest, LayerTree] = {}

    def holds(self, step: Step, layer: StoredLayer | None, below: StoredLayer | None) -> bool:
        """Whether `layer` on `below` is what the step, a WORKDIR or a COPY of the build context, would write; None
        stands for no layer. Raises what copying raises, and what the registry raises."""
        items = self._items(step, self._tree(below))
        if layer is None or not items:
            return layer is None and not items
        if not _may_fit(items, layer):
            return False
        toc, digests = self._fetcher.contents(layer)
        return same_contents(items, toc, digests, self._tree(below))

    def _items(self, step: Step, tree: LayerTree) -> list[Item]:
        passwd, group = tree.read_kept("etc/passwd"), tree.read_kept("etc/group")
        if isinstance(step.work, WorkdirWork):
            user = resolve_user(step.before.user, passwd, group)
            return workdir_items(step.work.path, tree, (user.uid, user.gid))
        if not isinstance(step.work, CopyWork) or step.work.origin is not None:
            raise ValueError(f"not compared by contents: {step.title}")
        request = step.work.request
        if step.work.chown:
            request = replace(request, owner=resolve_owner(step.work.chown, passwd, group))
        return copy_items(request, self._context(), tree)

    def _tree(self, top: StoredLayer | None) -> LayerTree:
        if top is None:
            return LayerTree()
        if top.chain not in self._trees:
            layers = top.with_parents()
            self._fetcher.start_tocs(layers)
            self._trees[top.chain] = LayerTree([self._fetcher.toc(layer) for layer in layers])
        return self._trees[top.chain]


def same_contents(items: Sequence[Item], toc: Toc, digests: Mapping[str, Digest], below: LayerTree) -> bool:
    """Whether a layer of these contents writes the same as `items` on `below`; `digests` are the sha256 of its files,
    by path."""
    ours = {(item.entry.path, item.entry.type is EntryType.OPAQUE): item for item in items}
    theirs = {(entry.path, entry.type is EntryType.OPAQUE): entry for entry in toc.entries}
    if not ours.keys() <= theirs.keys():
        return False
    for place, entry in theirs.items():
        item = ours.get(place)
        if item is None:
            if not _repeats(entry, below):
                return False
        elif _identity(entry) != _identity(item.entry):
            return False
    files = [item for item in items if item.entry.type is EntryType.FILE]
    return all(digests.get(item.entry.path) == _digest(item) for item in files)


def _repeats(entry: Entry, below: LayerTree) -> bool:
    if entry.type is not EntryType.DIRECTORY:
        return False
    if not entry.path:
        return True  # the root: builders write one or none, with the mode of some directory of theirs
    found = below.entry(entry.path)
    return found is not None and _identity(found) == _identity(entry)


def _identity(entry: Entry) -> tuple[object, ...]:
    """All but times, and sizes of what has no bytes. A symlink has no mode, a hard link that of its file."""
    kind = entry.type
    mode = 0 if kind in (EntryType.SYMLINK, EntryType.HARDLINK) else entry.mode
    owner = (0, 0) if kind is EntryType.HARDLINK else (entry.uid, entry.gid)
    size = entry.size if kind is EntryType.FILE else 0
    return kind, mode, owner, size, entry.link, entry.device, dict(entry.xattrs)


def _may_fit(items: Sequence[Item], layer: StoredLayer) -> bool:
    """By size, before anything is downloaded: no compression makes a layer much larger than what is in it, nor
    smaller than a thousandth."""
    size = sum(item.entry.size for item in items)
    # headers of parent directories, extended headers and the compressor's own frames
    most = size + size // 100 + 8 * _HEADER * (len(items) + 64)
    return size // 1100 <= layer.descriptor.size <= most


def _digest(item: Item) -> Digest:
    sha256 = hashlib.sha256()
    content = item.content
    if isinstance(content, bytes):
        sha256.update(content)
    elif content is not None:
        left = item.entry.size
        with open(content, "rb") if isinstance(content, (str, os.PathLike)) else content() as file:
            while left and (block := file.read(min(left, _BLOCK))):
                sha256.update(block)
                left -= len(block)
    return Digest(f"sha256:{sha256.hexdigest()}")
