"""What two runners made of one mount, put together: three trees, as when branches are merged.

Of a path that both have, the one counts that was changed since `base`, from which this runner's own tree began; where
both were, this runner's own: what its programs left together stays together. What it removed stays removed; what the
other one lacks is kept, as nobody knows whether it was removed there or never was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.index import MountIndex, Node, Pack
from ci_plugins.mounts.listing import Limits, within

#: type, mode, owner, group, link and chunks of a path
Content = tuple[EntryType, int, int, int, str, tuple[str, ...]]


def merged(own: MountIndex, theirs: MountIndex, base: MountIndex | None, limits: Limits) -> MountIndex:
    """`own` and `theirs` together, as large and old as `limits` allow, on packs of both."""
    ours, others, before = (contents(index) for index in (own, theirs, base or _EMPTY))
    mine = {path for path in ours if _is_mine(path, ours, others, before)}
    new = {
        path
        for path in others
        if path not in mine and (path in ours or path not in before or before[path] != others[path])
    }
    standing = _standing({**{path: ours[path] for path in mine}, **{path: others[path] for path in new}})
    used = {node.path: node.used for node in theirs.nodes}
    nodes = [
        *(replace(node, used=max(node.used, used.get(node.path, 0))) for node in subset(own, mine & standing)),
        *subset(theirs, new & standing),
    ]
    kept = within(sorted(nodes, key=lambda node: _place(node.path)), limits, own.saved)
    return MountIndex(own.id, own.saved, packs_for(kept, (*theirs.packs, *own.packs)), tuple(kept))


def contents(index: MountIndex) -> dict[str, Content]:
    """What each path is, but for its times: equal for what need not be written again. A hard link is the file that it
    is a name of."""
    files = {node.path: node for node in index.nodes}
    found: dict[str, Content] = {}
    for node in index.nodes:
        one = files[node.link] if node.type is EntryType.HARDLINK else node
        found[node.path] = (one.type, one.mode, one.uid, one.gid, one.link, one.chunks)
    return found


def subset(index: MountIndex, paths: Collection[str]) -> tuple[Node, ...]:
    """The nodes of some paths. Of hard links whose file is none of them, the first becomes the file."""
    files = {node.path: node for node in index.nodes}
    heirs: dict[str, str] = {}
    chosen = []
    for node in index.nodes:
        if node.path not in paths:
            continue
        if node.type is EntryType.HARDLINK and node.link not in paths:
            heir = heirs.setdefault(node.link, node.path)
            node = replace(files[node.link], path=node.path) if heir == node.path else replace(node, link=heir)
        chosen.append(node)
    return tuple(chosen)


def packs_for(nodes: Iterable[Node], packs: Sequence[Pack]) -> tuple[Pack, ...]:
    """Those of the packs that it takes to make these nodes: the first one that holds a chunk."""
    wanted = {chunk for node in nodes for chunk in node.chunks}
    taken = []
    for pack in {pack.descriptor.digest: pack for pack in packs}.values():
        held = wanted.intersection(chunk.digest for chunk in pack.chunks)
        if held:
            wanted -= held
            taken.append(pack)
    return tuple(taken)


def made_of(index: MountIndex, chunks: Collection[str]) -> MountIndex:
    """Without what lacks one of its chunks."""
    kept = {path for path, (*_, held) in contents(index).items() if all(chunk in chunks for chunk in held)}
    return replace(index, nodes=subset(index, kept))


_EMPTY = MountIndex("", 0, (), ())


def _is_mine(
    path: str,
    ours: Mapping[str, Content],
    others: Mapping[str, Content],
    before: Mapping[str, Content],
) -> bool:
    """Whether the own node of a path is the one that counts."""
    if path not in others or ours[path] == others[path] or before.get(path) != ours[path]:
        return True
    # Unchanged here and changed there. A directory and what is in it are not taken apart, though.
    return EntryType.DIRECTORY in (ours[path][0], others[path][0]) and ours[path][0] != others[path][0]


def _standing(found: Mapping[str, Content]) -> set[str]:
    """The paths that are in directories of it."""
    standing: set[str] = set()
    for path in sorted(found, key=_place):
        parent = path.rpartition("/")[0]
        if not path or (parent in standing and found[parent][0] is EntryType.DIRECTORY):
            standing.add(path)
    return standing


def _place(path: str) -> list[str]:
    """Sorts as a walk of the tree does."""
    return path.split("/") if path else []
