"""LayerTree against a model: the layers applied one after another to a dictionary."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.errors import BuildError, CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree

DIRECTORY, FILE, SYMLINK = EntryType.DIRECTORY, EntryType.FILE, EntryType.SYMLINK
HARDLINK, WHITEOUT, OPAQUE = EntryType.HARDLINK, EntryType.WHITEOUT, EntryType.OPAQUE


def tree(*layers: Toc) -> LayerTree:
    return LayerTree(layers)


def layer(*entries: Entry, **kept: bytes) -> Toc:
    return Toc(entries, kept)


# --- the model ------------------------------------------------------------------------------------------------------

Model = dict[str, tuple[EntryType, int, str]]


def below(path: str, other: str) -> bool:
    return path == "" or other.startswith(path + "/")


def remove(model: Model, path: str, itself: bool = True) -> None:
    for other in [p for p in model if below(path, p) or (itself and p == path)]:
        del model[other]


def make_directories(model: Model, path: str) -> None:
    parts = path.split("/") if path else []
    for count in range(1, len(parts) + 1):
        directory = "/".join(parts[:count])
        if directory not in model or model[directory][0] is not DIRECTORY:
            remove(model, directory)
            model[directory] = (DIRECTORY, 0o755, "")


def apply(model: Model, one: Toc) -> None:
    for entry in one.entries:
        if entry.type is WHITEOUT:
            remove(model, entry.path)
        elif entry.type is OPAQUE:
            remove(model, entry.path, itself=False)
    for entry in one.entries:
        make_directories(model, entry.path.rpartition("/")[0])
        if entry.type is OPAQUE:
            make_directories(model, entry.path)
    for entry in one.entries:
        if entry.type in (WHITEOUT, OPAQUE):
            continue
        make_directories(model, entry.path.rpartition("/")[0])
        if entry.type is not DIRECTORY or (entry.path in model and model[entry.path][0] is not DIRECTORY):
            remove(model, entry.path)
        model[entry.path] = (entry.type, entry.mode, entry.link)


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([FILE, FILE, DIRECTORY, SYMLINK, WHITEOUT, OPAQUE])


@st.composite
def layers(draw: st.DrawFn) -> Toc:
    entries: dict[tuple[str, bool], Entry] = {}
    for path, kind, mode in draw(st.lists(st.tuples(paths, kinds, st.sampled_from([0o600, 0o700])), max_size=8)):
        mark = kind in (WHITEOUT, OPAQUE)
        solid = [p for (p, m), e in entries.items() if not m and e.type is not DIRECTORY]
        solid_here = kind is OPAQUE and path in solid
        holds = any(below(path, p) for p, _ in entries) or (path, True) in entries
        if solid_here or any(below(p, path) for p in solid):
            continue  # a name cannot be a file and a directory in one archive
        if not mark and kind is not DIRECTORY and holds:
            continue
        entries[(path, mark)] = Entry(path, kind, mode=0 if mark else mode, link="x" if kind is SYMLINK else "")
    return Toc(tuple(entries.values()))


@settings(max_examples=400, deadline=None)
@given(st.lists(layers(), max_size=5))
def test_same_answers_as_applying_the_layers(stack: list[Toc]) -> None:
    model: Model = {}
    for one in stack:
        apply(model, one)
    subject = tree(*stack[:-1]).push(stack[-1]) if stack else tree()
    shown = {found.entry.path: (found.entry.type, found.entry.mode, found.entry.link) for found in subject.walk()}
    assert shown == model
    for path in {entry.path for one in stack for entry in one.entries} - set(model):
        assert subject.lookup(path) is None
    for directory in ["", *(path for path, value in model.items() if value[0] is DIRECTORY)]:
        names = sorted(p.rpartition("/")[2] for p in model if p and p.rpartition("/")[0] == directory)
        assert subject.children(directory) == names


# --- by example -----------------------------------------------------------------------------------------------------


def test_found_says_which_layer_holds_the_file() -> None:
    stack = tree(layer(Entry("a", FILE), Entry("b", FILE)), layer(Entry("b", FILE, mode=0o755)), layer())
    assert [(f.entry.path, f.layer) for f in stack.walk()] == [("a", 0), ("b", 1)]


def test_an_implied_parent_keeps_the_lower_directory_as_it_is() -> None:
    stack = tree(layer(Entry("tmp", DIRECTORY, 0o1777, uid=3)), layer(Entry("tmp/x", FILE)))
    found = stack.lookup("tmp")
    assert found is not None
    assert (found.entry.mode, found.entry.uid, found.layer) == (0o1777, 3, 0)


def test_hard_links_show_the_file_they_are() -> None:
    file = Entry("bin/a", FILE, 0o755, uid=5, size=9)
    stack = tree(
        layer(file, Entry("bin/b", HARDLINK, link="bin/a")),
        layer(Entry("c", HARDLINK, link="bin/b"), Entry("d", HARDLINK, link="c")),
    )
    b, c, d = (stack.lookup(path) for path in ("bin/b", "c", "d"))
    assert b is not None
    assert c is not None
    assert d is not None
    assert (b.entry.type, b.entry.mode, b.entry.uid, b.entry.size) == (FILE, 0o755, 5, 9)
    assert (b.layer, b.first_name) == (0, "bin/a")
    assert (c.entry.path, c.entry.size, c.layer) == ("c", 9, 1)
    assert (c.layer, c.first_name) == (d.layer, d.first_name)


@pytest.mark.parametrize("links", [{"x": "gone"}, {"x": "y", "y": "x"}])
def test_a_hard_link_to_nothing_is_a_corrupt_layer(links: dict[str, str]) -> None:
    stack = tree(layer(*(Entry(path, HARDLINK, link=target) for path, target in links.items())))
    with pytest.raises(CorruptLayer, match="hard link"):
        stack.lookup("x")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/sh", "usr/bin/dash"),
        ("bin/../../..//etc", "etc"),
        ("./up/etc", "etc"),
        ("abs", "usr/bin"),
        ("bin/none/../sh", "usr/bin/dash"),
        ("nothing/here", "nothing/here"),
        ("dangling/x", "var/run/x"),
        ("", ""),
        ("/", ""),
    ],
)
def test_resolve_stays_inside_the_root(path: str, expected: str) -> None:
    stack = tree(
        layer(
            Entry("usr/bin/dash", FILE),
            Entry("usr/bin/sh", SYMLINK, link="dash"),
            Entry("bin", SYMLINK, link="usr/bin"),
            Entry("abs", SYMLINK, link="/bin/"),
            Entry("up", SYMLINK, link="../../.."),
            Entry("dangling", SYMLINK, link="/var/./run"),
        )
    )
    assert stack.resolve(path) == expected


def test_resolve_may_leave_the_last_link() -> None:
    stack = tree(layer(Entry("usr/l", SYMLINK, link="x"), Entry("d", SYMLINK, link="usr")))
    assert stack.resolve("d/l", follow_last=False) == "usr/l"


def test_a_loop_of_links_is_an_error() -> None:
    stack = tree(layer(Entry("a", SYMLINK, link="b"), Entry("b", SYMLINK, link="a")))
    with pytest.raises(BuildError, match="too many levels of symbolic links"):
        stack.resolve("a/x")


def test_kept_files_follow_the_layers() -> None:
    passwd = Entry("etc/passwd", FILE, size=1)
    low, high = Toc((passwd,), {"etc/passwd": b"low"}), Toc((passwd,), {"etc/passwd": b"high"})
    assert tree(low, high, layer()).read_kept("etc/passwd") == b"high"
    assert tree(low, high, layer(Entry("etc/passwd", WHITEOUT))).read_kept("etc/passwd") == b""
    assert tree(low, layer(Entry("etc", OPAQUE))).read_kept("etc/passwd") == b""
    assert tree(low).read_kept("etc/group") == b""


def test_a_large_layer_is_indexed_quickly() -> None:
    entries = tuple(Entry(f"usr/lib/d{number % 500}/f{number}", FILE) for number in range(50_000))
    began = time.process_time()
    assert tree(Toc(entries)).lookup("usr/lib/d7/f7") is not None
    # 0.04 s where it was written; far more means that something became quadratic
    assert time.process_time() - began < 0.6
