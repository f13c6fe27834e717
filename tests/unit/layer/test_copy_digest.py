"""copy_digest: what must change it and what must not."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ci_plugins.layer.copy import CopyRequest, copy_digest
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.oci import Digest, sha256_digest


@dataclass(frozen=True)
class Node:
    kind: EntryType
    mode: int = 0o644
    #: bytes of a file, target of a link
    data: bytes = b""
    uid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    #: equal for the names of one file
    inode: int | None = None


class Memory:
    """A FileTree over a dictionary."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def lookup(self, path: str) -> Entry | None:
        if not path:
            return Entry("", EntryType.DIRECTORY, 0o755)
        node = self.nodes.get(path)
        if node is None:
            return None
        is_file = node.kind is EntryType.FILE
        return Entry(
            path,
            node.kind,
            node.mode,
            node.uid,
            0,
            len(node.data) if is_file else 0,
            node.mtime_ns,
            node.data.decode() if node.kind is EntryType.SYMLINK else "",
            (0, 0),
            dict(node.xattrs),
        )

    def children(self, directory: str) -> Sequence[str]:
        prefix = directory + "/" if directory else ""
        return sorted(p[len(prefix) :] for p in self.nodes if p.startswith(prefix) and "/" not in p[len(prefix) :])

    def resolve(self, path: str) -> str:
        return path.strip("/")

    def content(self, path: str) -> bytes:
        return self.nodes[path].data

    def content_digests(self, paths: Sequence[str]) -> list[Digest]:
        return [sha256_digest(self.nodes[path].data) for path in paths]

    def identity(self, path: str) -> Hashable | None:
        return self.nodes[path].inode

    def absence(self, path: str) -> str:
        return ""


ALL = CopyRequest((".",), "/app/")
FILE, DIRECTORY, SYMLINK = EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK

names = st.text("ab\0 \n", min_size=1, max_size=3)
nodes = st.builds(
    Node,
    st.sampled_from([FILE, FILE, SYMLINK, EntryType.FIFO]),
    st.sampled_from([0o644, 0o755]),
    st.text("ab\0", max_size=3).map(str.encode),
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for path, node in draw(st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), nodes)).items():
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if path in found or any(found.get(p, Node(DIRECTORY)).kind is not DIRECTORY for p in above):
            continue
        for directory in above:
            found.setdefault(directory, Node(DIRECTORY, 0o755))
        found[path] = node
    return found


def meaning(tree: dict[str, Node]) -> dict[str, tuple[EntryType, int, bytes]]:
    """What a copy of it shows. A FIFO has no data."""
    return {path: (n.kind, n.mode, b"" if n.kind is EntryType.FIFO else n.data) for path, n in tree.items()}


@given(trees(), trees())
def test_equal_exactly_for_equal_trees(one: dict[str, Node], other: dict[str, Node]) -> None:
    same = copy_digest(ALL, Memory(one)) == copy_digest(ALL, Memory(other))
    assert same == (meaning(one) == meaning(other))


@given(trees(), st.data())
def test_times_and_order_do_not_count(tree: dict[str, Node], data: st.DataObject) -> None:
    order = data.draw(st.permutations(sorted(tree)))
    times = data.draw(st.lists(st.integers(0, 2**62), min_size=len(tree), max_size=len(tree)))
    other = {path: replace(tree[path], mtime_ns=time) for path, time in zip(order, times, strict=True)}
    later = replace(ALL, now_ns=9)
    assert copy_digest(ALL, Memory(tree)) == copy_digest(later, Memory(other))


@given(trees(), st.data())
def test_every_small_change_counts(tree: dict[str, Node], data: st.DataObject) -> None:
    leaves = sorted(path for path, node in tree.items() if node.kind is not DIRECTORY)
    assume(leaves)
    path = data.draw(st.sampled_from(leaves))
    node = tree[path]
    other = dict(tree)
    change = data.draw(st.sampled_from(["rename", "mode", "data", "remove", "xattr", "owner", "swap"]))
    if change == "rename":
        other[path + "c"] = other.pop(path)
    elif change == "mode":
        other[path] = replace(node, mode=node.mode ^ 0o100)
    elif change == "data":
        assume(node.kind is not EntryType.FIFO)
        other[path] = replace(node, data=node.data + b"b")
    elif change == "remove":
        del other[path]
    elif change == "xattr":
        other[path] = replace(node, xattrs=(("user.a", b""),))
    elif change == "owner":
        other[path] = replace(node, uid=1)
    else:
        second = data.draw(st.sampled_from(leaves))
        assume(meaning({"": tree[path]}) != meaning({"": tree[second]}))
        other[path], other[second] = other[second], other[path]
    assert copy_digest(ALL, Memory(tree)) != copy_digest(ALL, Memory(other))


TREE = Memory(
    {
        "a": Node(FILE, 0o640, b"x", uid=7),
        "d": Node(DIRECTORY, 0o750),
        "d/b": Node(FILE, 0o640, b"x"),
        "t.tar": Node(FILE, 0o640, b"x"),
    }
)


@pytest.mark.parametrize(
    "change",
    [
        {"destination": "/app"},
        {"destination": "/other/"},
        {"working_dir": "/w", "destination": "app/"},
        {"owner": (1, 1)},
        {"chmod": "700"},
        {"inline": {"a": b"x"}},
        {"unpack_archives": True},
        {"exclude": ("d",)},
        {"parents": True, "sources": ("d/b",)},
        {"sources": ("a", "d")},
        {"sources": ("d", "a")},
    ],
)
def test_the_request_counts(change: dict[str, object]) -> None:
    assert copy_digest(replace(ALL, **change), TREE) != copy_digest(ALL, TREE)  # type: ignore[arg-type]


def test_two_ways_to_say_the_same_are_equal() -> None:
    written = [
        CopyRequest(("d",), "/app/"),
        CopyRequest(("/d/", "none*"), "./", "/app", owner=(0, 0)),
        CopyRequest(("./x/../d",), "app/.", exclude=("nothing",)),
    ]
    assert len({copy_digest(request, TREE) for request in written}) == 1


def test_only_what_lands_counts() -> None:
    """With --chmod and --chown the modes and owners on disk change nothing, a .dockerignore'd file neither."""
    other = Memory({**TREE.nodes, "a": Node(FILE, 0o600, b"x", uid=8), "junk.log": Node(FILE)})
    request = replace(ALL, owner=(1, 2), chmod="644", exclude=("*.log",))
    assert copy_digest(request, TREE) == copy_digest(request, other)
    assert copy_digest(replace(request, chmod=""), TREE) != copy_digest(replace(request, chmod=""), other)


def test_which_files_are_hard_links_counts() -> None:
    linked = Memory({"a": Node(FILE, inode=1, data=b"x"), "b": Node(FILE, inode=1, data=b"x")})
    apart = Memory({"a": Node(FILE, inode=1, data=b"x"), "b": Node(FILE, inode=2, data=b"x")})
    alone = Memory({"a": Node(FILE, data=b"x"), "b": Node(FILE, data=b"x")})
    assert copy_digest(ALL, linked) != copy_digest(ALL, apart)
    assert copy_digest(ALL, apart) == copy_digest(ALL, alone)
