"""Two trees of one mount put together: nothing that one of them has is lost, and what comes out is a tree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.index import PACK_TYPE, Chunk, MountIndex, Node, Pack
from ci_plugins.mounts.listing import Limits
from ci_plugins.mounts.merge import contents, made_of, merged, packs_for, subset
from ci_plugins.oci import Descriptor, sha256_digest

ALL = Limits(1 << 40, 1e12)
#: a file's text; "/" for a directory, "→path" for a symbolic link, "=path" for a hard link
Tree = Mapping[str, str]


def index(tree: Tree, *, used: int = 1000, saved: int = 1000) -> MountIndex:
    """One pack a file."""
    nodes, packs = [Node("", EntryType.DIRECTORY, 0o755, 0, 0, 0, used)], []
    for path in sorted(tree, key=lambda path: path.split("/")):
        text = tree[path]
        kind = {"/": EntryType.DIRECTORY, "→": EntryType.SYMLINK, "=": EntryType.HARDLINK}.get(text[:1], EntryType.FILE)
        link, size = text[1:], 0
        chunks: tuple[str, ...] = ()
        if kind is EntryType.FILE:
            chunk = Chunk(hashlib.sha256(text.encode()).hexdigest(), len(text.encode()))
            packs.append(Pack(Descriptor(PACK_TYPE, sha256_digest(b"pack" + text.encode()), 9), (chunk,)))
            link, chunks, size = "", (chunk.digest,), chunk.size
        nodes.append(Node(path, kind, 0o644, 0, 0, 0, used, size, link, chunks))
    return MountIndex("id", saved, tuple(packs), tuple(nodes))


def tree(index: MountIndex) -> dict[str, str]:
    """What is in it, and that it is one that can be read back."""
    assert MountIndex.from_bytes(index.to_bytes()).nodes == index.nodes
    texts = {hashlib.sha256(text.encode()).hexdigest(): text for text in TEXTS}
    marks = {EntryType.DIRECTORY: "/", EntryType.SYMLINK: "→", EntryType.HARDLINK: "="}
    return {
        node.path: marks[node.type] + node.link if node.type in marks else texts[node.chunks[0]]
        for node in index.nodes
        if node.path
    }


TEXTS = ("one", "two", "three", "four")


def put(own: Tree, theirs: Tree, base: Tree | None = None) -> dict[str, str]:
    return tree(merged(index(own), index(theirs), index(base) if base is not None else None, ALL))


def test_what_either_has_is_kept() -> None:
    assert put({"d": "/", "d/a": "one"}, {"d": "/", "d/b": "two", "c": "→d"}) == {
        "c": "→d", "d": "/", "d/a": "one", "d/b": "two",
    }  # fmt: skip


def test_of_a_path_in_both_the_changed_one_counts_and_else_the_own() -> None:
    base = {"a": "one", "b": "one", "c": "one"}
    assert put({"a": "two", "b": "one", "c": "two"}, {"a": "one", "b": "three", "c": "three"}, base) == {
        "a": "two", "b": "three", "c": "two",
    }  # fmt: skip
    assert put({"a": "two"}, {"a": "three"}) == {"a": "two"}


def test_what_was_removed_here_stays_removed_unless_it_was_changed_there() -> None:
    assert put({}, {"a": "one", "b": "two"}, {"a": "one", "b": "one"}) == {"b": "two"}
    assert put({"a": "one"}, {}, {"a": "one"}) == {"a": "one"}, "and what they lack is kept"


def test_a_link_is_to_what_it_was_a_link_to() -> None:
    # theirs: h is a name of the text "two"; here the file of that name is another one by now
    assert put({"f": "three"}, {"f": "two", "h": "=f", "i": "=f"}, {"f": "one"}) == {
        "f": "three",
        "h": "two",
        "i": "=h",
    }
    assert put({"f": "one", "h": "=f"}, {"f": "two"}, {"f": "one"}) == {"f": "two", "h": "one"}


def test_a_file_where_the_other_has_a_directory() -> None:
    assert put({"a": "one"}, {"a": "/", "a/b": "two"}) == {"a": "one"}
    assert put({"a": "/", "a/b": "one"}, {"a": "two"}, {"a": "/", "a/b": "one"}) == {"a": "/", "a/b": "one"}
    assert put({"a": "one", "x": "=a"}, {"a": "/", "a/b": "two", "z": "=a/b"}) == {"a": "one", "x": "=a", "z": "two"}


def test_limits_hold_for_both_together() -> None:
    own, theirs = index({"a": "one"}, used=900), index({"b": "two"}, used=950)
    assert tree(merged(own, theirs, None, Limits(4, 1e9))) == {"b": "two"}
    assert tree(merged(own, theirs, None, Limits(1 << 30, 70))) == {"b": "two"}
    both = merged(index({"a": "one"}, used=10), index({"a": "one"}, used=990), None, Limits(1 << 30, 70))
    assert tree(both) == {"a": "one"}, "used there is used"


def test_packs_that_hold_the_same_are_named_once() -> None:
    both = merged(index({"a": "one", "b": "two"}), index({"c": "one"}), None, ALL)
    assert len(both.packs) == 2
    assert packs_for(both.nodes, (*both.packs, *index({"z": "three"}).packs)) == both.packs


def test_without_a_chunk_there_is_no_file_and_no_link_to_it() -> None:
    whole = index({"a": "one", "b": "=a", "c": "two"})
    chunks = {chunk.digest for pack in whole.packs for chunk in pack.chunks if chunk.size != 3 or pack.chunks}
    assert made_of(whole, chunks).nodes == whole.nodes
    without = chunks - {hashlib.sha256(b"one").hexdigest()}
    assert tree(made_of(whole, without)) == {"c": "two"}


names = st.sampled_from(["a", "a/x", "a/y", "b", "b/x", "c", "c/x/y", "d"])
trees = st.dictionaries(names, st.sampled_from([*TEXTS, "/", "→/etc", "=a", "=b/x"]), max_size=6)


def sound(wanted: Tree) -> dict[str, str]:
    """What of it can be: parents are directories, hard links follow their file."""
    made: dict[str, str] = {}
    for path in sorted(wanted, key=lambda path: path.split("/")):
        parent, text = path.rpartition("/")[0], wanted[path]
        if parent and made.get(parent) != "/":
            continue
        if text.startswith("=") and made.get(text[1:]) not in TEXTS:
            continue
        made[path] = text
    return made


@given(trees, trees, st.none() | trees)
def test_whatever_is_put_together_is_a_tree_that_has_all_the_own(own: Tree, theirs: Tree, base: Tree | None) -> None:
    mine, other = index(sound(own)), index(sound(theirs))
    before = index(sound(base)) if base is not None else None
    both = merged(mine, other, before, ALL)
    tree(both)
    together, ours, others = contents(both), contents(mine), contents(other)
    assert together.items() <= (ours | others).items() | (others | ours).items()
    untouched = contents(before) if before else {}
    for path in ours:
        changed_there = path in others and untouched.get(path) == ours[path]
        if not changed_there and not any(up in together and up != path for up in _above(path)):
            assert together[path] == ours[path]
    for path in others.keys() - ours.keys() - untouched.keys():
        if all(together.get(up, ("",))[0] is EntryType.DIRECTORY for up in _above(path)):
            assert together[path] == others[path]
    # what both have written is the same, whoever writes last
    again = merged(mine, both, before, ALL)
    assert contents(again) == together


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


@given(trees, st.sets(names))
def test_a_part_of_a_tree_says_the_same_of_its_paths(wanted: Tree, paths: set[str]) -> None:
    whole = index(sound(wanted))
    said = contents(whole)
    part = subset(whole, paths)
    assert contents(MountIndex("", 0, (), part)) == {path: said[path] for path in paths if path in said}
