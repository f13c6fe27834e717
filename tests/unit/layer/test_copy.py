"""COPY, ADD and WORKDIR over a tree of tables: expected results are those of the Dockerfile reference and of BuildKit's
copy (docopy, fsutil)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci_plugins.context import Context
from ci_plugins.errors import (
    BuildError,
    CiPluginsError,
    ContextError,
    CopySourceNotFound,
    DockerfileError,
    OutsideContext,
)
from ci_plugins.layer.copy import CopyRequest, copy_digest, copy_items, workdir_items
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree

FILE, DIRECTORY, SYMLINK = EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK
NOW = 1_700_000_000_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one.txt", "two.txt", "notes.md", "src/main.py", "src/lib/util.py", "src/lib/deep/x.py", "web/a.js"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        file.chmod(0o640)
        os.utime(file, ns=(0, 7))
    (tmp_path / "src" / "here").symlink_to("main.py")
    (tmp_path / "tool").symlink_to("src/main.py")
    (tmp_path / "sources").symlink_to("/src")
    (tmp_path / "src" / "lib").chmod(0o700)
    return tmp_path


BASE = LayerTree(
    (
        Toc(
            (
                Entry("app", DIRECTORY, 0o711, 5, 6, mtime_ns=1),
                Entry("app/lib", DIRECTORY, 0o755, 5, 6, mtime_ns=1),
                Entry("app/main.py", FILE, 0o600, size=3),
                Entry("bin", SYMLINK, 0o777, link="usr/bin"),
                Entry("current", SYMLINK, 0o777, link="/app"),
                Entry("entry", SYMLINK, 0o777, link="/opt/entry.sh"),
                Entry("etc/motd", FILE, 0o644, size=1),
                Entry("usr/bin", DIRECTORY, 0o755),
            )
        ),
    )
)


def show(items: list[Item]) -> list[str]:
    return [f"{item.entry.path} {item.entry.type.value}{item.entry.mode:o}" for item in items]


def copy(root: Path, *sources: str, to: str, **more: object) -> list[Item]:
    request = CopyRequest(tuple(sources), to, now_ns=NOW, **more)  # type: ignore[arg-type]
    return copy_items(request, Context.open(root), BASE)


def names(root: Path, *sources: str, to: str, **more: object) -> list[str]:
    return [item.entry.path for item in copy(root, *sources, to=to, **more)]


def test_a_linked_copy_sees_nothing_of_what_is_below(root: Path) -> None:
    assert show(copy(root, "one.txt", to="/bin/", link=True)) == ["bin d755", "bin/one.txt f640"]
    assert show(copy(root, "one.txt", to="/app/main.py", link=True)) == ["app d755", "app/main.py f640"]


# --- where files land -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "to", "expected"),
    [
        (["one.txt"], "/x", ["x f640"]),
        (["/one.txt"], "/x/", ["x d755", "x/one.txt f640"]),
        (["./src/../one.txt"], "/x/y/z", ["x d755", "x/y d755", "x/y/z f640"]),
        (["one.txt"], "/app", ["app/one.txt f640"]),
        (["one.txt"], "/app/main.py", ["app/main.py f640"]),
        (["one.txt"], "rel", ["work/rel f640"]),
        (["one.txt"], ".", ["work/one.txt f640"]),
        (["one.txt"], "", ["work/one.txt f640"]),
        (["one.txt"], "sub/.", ["work/sub d755", "work/sub/one.txt f640"]),
        (["one.txt"], "../up/x", ["up d755", "up/x f640"]),
        (["one.txt", "two.txt"], "/x/", ["x d755", "x/one.txt f640", "x/two.txt f640"]),
        (["one.txt", "two.txt"], "/app", ["app/one.txt f640", "app/two.txt f640"]),
        (["*.txt"], "/app/", ["app/one.txt f640", "app/two.txt f640"]),
        (["o[mn]?.txt", "nothing*"], "/", ["one.txt f640"]),
        (["*/*.py"], "/p/", ["p d755", "p/main.py f640"]),
        (["src/lib/*/*"], "/", ["x.py f640"]),
        # a directory gives what it holds
        (["web"], "/w", ["w d755", "w/a.js f640"]),
        (["web/"], "/w/", ["w d755", "w/a.js f640"]),
        (["src/li*", "web"], "/w", ["w d755", "w/a.js f640", "w/deep d755", "w/deep/x.py f640", "w/util.py f640"]),
        # symlinks: sources and their directories are followed, what a directory holds is not
        (["tool"], "/", ["tool f640"]),
        (["tool"], "/t/renamed", ["t d755", "t/renamed f640"]),
        (["sources/main.py"], "/", ["main.py f640"]),
        (["sources/*.py"], "/", ["main.py f640"]),
        (["s*s"], "/y/", ["y d755", "y/here l777", "y/lib d700", "y/lib/deep d755", "y/lib/deep/x.py f640",
                          "y/lib/util.py f640", "y/main.py f640"]),
        # symlinks of the destination
        (["one.txt"], "/bin/", ["usr/bin/one.txt f640"]),
        (["one.txt"], "/current/../x", ["x f640"]),
        (["one.txt"], "/current", ["app/one.txt f640"]),
        (["one.txt"], "/current/lib", ["app/lib/one.txt f640"]),
        (["one.txt"], "/entry", ["opt d755", "opt/entry.sh f640"]),
        (["web"], "/current/web", ["app/web d755", "app/web/a.js f640"]),
    ],
)  # fmt: skip
def test_where_it_lands(root: Path, sources: list[str], to: str, expected: list[str]) -> None:
    target = BASE.push(Toc((Entry("work", DIRECTORY, 0o755),)))
    items = copy_items(CopyRequest(tuple(sources), to, "/work"), Context.open(root), target)
    assert show(items) == expected


def test_existing_directories(root: Path) -> None:
    """The destination keeps its mode and owner, those below it take the source's."""
    items = {item.entry.path: item.entry for item in copy(root, "src", to="/app")}
    assert sorted(items) == [
        "app/here",
        "app/lib",
        "app/lib/deep",
        "app/lib/deep/x.py",
        "app/lib/util.py",
        "app/main.py",
    ]
    assert (items["app/lib"].mode, items["app/lib"].uid, items["app/lib"].gid) == (0o700, 0, 0)


def test_an_equal_directory_is_not_repeated(root: Path) -> None:
    context = Context.open(root)
    request = CopyRequest(("src",), "/x/")
    first = copy_items(request, context, BASE)
    again = copy_items(request, context, BASE.push(Toc(tuple(item.entry for item in first))))
    assert [item.entry.path for item in first if item.entry.type is DIRECTORY] == ["x", "x/lib", "x/lib/deep"]
    assert [item.entry.path for item in again if item.entry.type is DIRECTORY] == []


def test_times_and_owners(root: Path) -> None:
    os.utime(root / "web", ns=(0, 99))
    items = {item.entry.path: item.entry for item in copy(root, "web", "one.txt", to="/a/b/")}
    assert {path: entry.mtime_ns for path, entry in items.items()} == {
        "a": NOW,
        "a/b": 99,
        "a/b/a.js": 7,
        "a/b/one.txt": 7,
    }
    assert {(entry.uid, entry.gid) for entry in items.values()} == {(0, 0)}


def test_chown_and_chmod_reach_what_is_made(root: Path) -> None:
    items = copy(root, "web", "src/here", "src/lib", to="/a/b/", owner=(3, 4), chmod="750")
    assert {(item.entry.uid, item.entry.gid) for item in items} == {(3, 4)}
    assert show(items) == ["a d750", "a/b d750", "a/b/a.js f750", "a/b/deep d750", "a/b/deep/x.py f750",
                           "a/b/here f750", "a/b/util.py f750"]  # fmt: skip
    symbolic = copy(root, "src", to="/a/", chmod="go=u,u+X")
    assert show(symbolic)[:3] == ["a d755", "a/here l777", "a/lib d777"]


def test_contents(root: Path) -> None:
    (root / "empty").touch()
    items = {item.entry.path: item for item in copy(root, "one.txt", "empty", "src/here", to="/x/")}
    assert items["x/one.txt"].content == str(root / "one.txt")
    assert items["x/here"].content == str(root / "src/main.py")
    assert items["x/empty"].content is None
    assert items["x"].content is None


def test_inline_files(root: Path) -> None:
    items = copy(root, "one.txt", to="/x/", inline={"a": b"hello", "empty": b""}, chmod="u+x", owner=(1, 2))
    assert show(items) == ["x d755", "x/a f744", "x/empty f744", "x/one.txt f740"]
    assert (items[1].content, items[1].entry.size, items[1].entry.mtime_ns, items[1].entry.uid) == (b"hello", 5, NOW, 1)
    assert names(root, to="/etc/conf", inline={"EOF": b"x"}) == ["etc/conf"]
    assert names(root, to="/etc", inline={"EOF": b"x"}) == ["etc/EOF"]


def test_hard_links_stay_links_within_one_directory(root: Path) -> None:
    os.link(root / "web/a.js", root / "web/z.js")
    os.link(root / "web/a.js", root / "outside.js")
    items = {item.entry.path: item for item in copy(root, "web", "outside.js", to="/w/")}
    assert (items["w/z.js"].entry.type, items["w/z.js"].entry.link) == (EntryType.HARDLINK, "w/a.js")
    assert items["w/a.js"].entry.type is items["w/outside.js"].entry.type is FILE
    (root / "later").mkdir()
    (root / "later/a.js").write_text("other")
    items = {item.entry.path: item for item in copy(root, "web", "later", to="/w/")}
    assert items["w/z.js"].content == str(root / "web/z.js")
    assert items["w/a.js"].content == str(root / "later/a.js")


# --- --parents and --exclude ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["./src/main.py", "web/a.js"], ["src d", "src/main.py f", "web d", "web/a.js f"]),
        (["src/./lib/*.py"], ["lib d", "lib/util.py f"]),
        (["./src/**/*.py"], ["src d", "src/lib d", "src/lib/deep d", "src/lib/deep/x.py f", "src/lib/util.py f",
                             "src/main.py f"]),
        (["src/lib"], ["src d", "src/lib d", "src/lib/deep d", "src/lib/deep/x.py f", "src/lib/util.py f"]),
        (["*/*.js", "none/*"], ["web d", "web/a.js f"]),
    ],
)  # fmt: skip
def test_parents(root: Path, sources: list[str], expected: list[str]) -> None:
    items = copy(root, *sources, to="/usr/", parents=True)
    assert [f"{item.entry.path} {item.entry.type.value}" for item in items] == [f"usr/{name}" for name in expected]


def test_parents_take_the_sources_mode_but_not_its_owner_where_they_exist(root: Path) -> None:
    items = {item.entry.path: item.entry for item in copy(root, "src/./lib/util.py", to="/app", parents=True)}
    assert (items["app/lib"].mode, items["app/lib"].uid) == (0o700, 5)


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (["*.txt"], ["here", "lib", "lib/deep", "lib/deep/x.py", "lib/util.py", "main.py", "notes.md"]),
        (["lib"], ["here", "main.py", "notes.md", "one.txt"]),
        (["**/*.py"], ["here", "lib", "lib/deep", "notes.md", "one.txt"]),
        (["lib", "!lib/deep/x.py"], ["here", "lib", "lib/deep", "lib/deep/x.py", "main.py", "notes.md", "one.txt"]),
        (["here", "lib/de*/"], ["lib", "lib/util.py", "main.py", "notes.md", "one.txt"]),
    ],
)
def test_exclude(root: Path, exclude: list[str], expected: list[str]) -> None:
    assert names(root, "src", "[on]*s.md", "one.txt", to="/usr/bin/", exclude=tuple(exclude)) == [
        f"usr/bin/{name}" for name in expected
    ]


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "to", "kind", "message"),
    [
        (["../one.txt"], "/", OutsideContext, r"\.\./one\.txt is outside the build context"),
        (["src/../../*.py"], "/", OutsideContext, "outside the build context"),
        (["one.tx"], "/", CopySourceNotFound, "one.tx: nothing to copy; the nearest names are one.txt"),
        (["src/lib/utils.py"], "/", CopySourceNotFound, "src/lib/util.py"),
        (["none*"], "/", CopySourceNotFound, r"none\*"),
        (["one.txt", "gone"], "/x/", CopySourceNotFound, "gone"),
        (["one.txt/x"], "/", CopySourceNotFound, "one.txt/x"),
        (["[one"], "/", DockerfileError, r"malformed pattern '\[one'"),
        (["one.txt", "two.txt"], "/x", DockerfileError, "several files are copied to /x"),
        (["*.txt"], "/x", DockerfileError, "several files"),
        (["one.txt"], "/etc/motd/", BuildError, "/etc/motd is not a directory"),
        (["one.txt"], "/etc/motd/x/y", BuildError, "/etc/motd is not a directory"),
        (["src"], "/app/main.py", BuildError, "/app/main.py is not a directory"),
        (["onto"], "/", BuildError, "onto/app cannot be copied to /app: there is a directory of that name"),
        (["onto2"], "/", BuildError, "onto2/bin is a directory, but /bin is not"),
    ],
)
def test_errors(root: Path, sources: list[str], to: str, kind: type[CiPluginsError], message: str) -> None:
    (root / "onto").mkdir()
    (root / "onto" / "app").write_text("")
    (root / "onto2" / "bin").mkdir(parents=True)
    with pytest.raises(kind, match=message) as caught:
        copy(root, *sources, to=to)
    assert caught.value.remedy


def test_an_excluded_source_is_named_with_its_rule(root: Path) -> None:
    (root / ".dockerignore").write_text("*.txt\n")
    with pytest.raises(CopySourceNotFound, match=r"line 1 of \.dockerignore \(\*\.txt\) excludes one\.txt"):
        copy(root, "one.txt", to="/")
    with pytest.raises(CopySourceNotFound, match="excludes"):
        copy(root, "o*.txt", to="/")
    (root / "dangling").symlink_to("one.txt")
    with pytest.raises(CopySourceNotFound, match=r"symbolic link to one\.txt"):
        copy(root, "dangling", to="/")


def test_a_name_that_a_layer_reads_as_a_removal(root: Path) -> None:
    (root / "web" / ".wh.a").touch()
    with pytest.raises(ContextError, match="removal of a file"):
        copy(root, "web", to="/")


# --- WORKDIR --------------------------------------------------------------------------------------------------------


def test_workdir() -> None:
    items = workdir_items("/current/x/y", BASE, (9, 8), NOW)
    assert show(items) == ["app/x d755", "app/x/y d755"]
    assert {(item.entry.uid, item.entry.gid, item.entry.mtime_ns) for item in items} == {(9, 8, NOW)}
    assert workdir_items("/app/lib/", BASE, (0, 0)) == []
    assert workdir_items("/", LayerTree(), (0, 0)) == []
    with pytest.raises(BuildError, match="not a directory"):
        workdir_items("/etc/motd", BASE, (0, 0))


def test_the_digest_needs_no_target(root: Path) -> None:
    context = Context.open(root)
    assert copy_digest(CopyRequest(("src",), "/x"), context) != copy_digest(CopyRequest(("src",), "/x/"), context)
