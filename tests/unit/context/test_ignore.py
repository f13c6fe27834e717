"""What .dockerignore excludes: the rules of Docker's documentation and moby/patternmatcher."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.context import Context
from ci_plugins.context.ignore import load_ignore, parse_ignore
from ci_plugins.errors import ContextError
from ci_plugins.layer.copy_patterns import PatternMatcher

FILES = (
    "a.txt", "b.md", ".dockerignore", "Dockerfile", "file", "sub/a.txt", "sub/file", "sub/deep/b.md", "sub/deep/file",
    "node_modules/x/y.js", "node_modules/keep/z.js", "sub/node_modules/q.js", ".git/config", "exact",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def left(root: Path, rules: str) -> set[str]:
    (root / ".dockerignore").write_bytes(rules.encode())
    return {entry.path for entry in Context.open(root).walk() if entry.type == "f"}


@pytest.mark.parametrize(
    ("rules", "excluded"),
    [
        ("", set()),
        ("# file\n\n   \n", set()),
        ("\ufefffile", {"file"}),
        ("file\r\nexact\r\n", {"file", "exact"}),
        ("  /file/  ", {"file"}),
        ("./sub//deep/../file", {"sub/file"}),
        ("../file", set()),
        ("*", set(FILES)),
        ("*/*.txt", {"sub/a.txt"}),
        ("?.md", {"b.md"}),
        ("*/*/*.md", {"sub/deep/b.md"}),
        ("**/*.md", {"b.md", "sub/deep/b.md"}),
        ("**/file", {"file", "sub/file", "sub/deep/file"}),
        ("**.md", {"b.md", "sub/deep/b.md"}),
        ("sub", {"sub/a.txt", "sub/file", "sub/deep/b.md", "sub/deep/file", "sub/node_modules/q.js"}),
        ("sub/**", {"sub/a.txt", "sub/file", "sub/deep/b.md", "sub/deep/file", "sub/node_modules/q.js"}),
        ("sub/**/file", {"sub/file", "sub/deep/file"}),
        ("**/node_modules", {"node_modules/x/y.js", "node_modules/keep/z.js", "sub/node_modules/q.js"}),
        ("[ab].*", {"a.txt", "b.md"}),
        ("[^a].md", {"b.md"}),
        ("[c-z]*", {"file", "exact", "sub/a.txt", "sub/file", "sub/deep/b.md", "sub/deep/file",
                    "sub/node_modules/q.js", "node_modules/x/y.js", "node_modules/keep/z.js"}),
        ("a\\.txt", {"a.txt"}),
        ("#file\nfile", {"file"}),
        # exceptions: the last rule that matches decides
        ("*.md\n!b.md", set()),
        ("!b.md\n*.md", {"b.md"}),
        ("*\n!sub/deep/file", set(FILES) - {"sub/deep/file"}),
        ("*\n!sub", set(FILES) - {"sub/a.txt", "sub/file", "sub/deep/b.md", "sub/deep/file", "sub/node_modules/q.js"}),
        ("*\n! /sub/deep/", set(FILES) - {"sub/deep/b.md", "sub/deep/file"}),
        ("node_modules\n!node_modules/keep", {"node_modules/x/y.js"}),
        ("*\n!**/*.md", set(FILES) - {"b.md", "sub/deep/b.md"}),
        ("sub\n!sub/*/file\nsub/deep/*.md",
         {"sub/a.txt", "sub/file", "sub/deep/b.md", "sub/node_modules/q.js"}),
        ("*\n!*/*.txt\nsub/a.txt", set(FILES)),
        (".git\n.dockerignore\nDockerfile", {".git/config", ".dockerignore", "Dockerfile"}),
    ],
)  # fmt: skip
def test_rules(root: Path, rules: str, excluded: set[str]) -> None:
    assert set(FILES) - left(root, rules) == excluded


def test_an_excluded_directory_shows_only_if_it_holds_something(root: Path) -> None:
    (root / ".dockerignore").write_text("*\n!sub/deep/file\n!node_modules/nothing")
    assert [entry.path for entry in Context.open(root).walk()] == ["sub", "sub/deep", "sub/deep/file"]


def test_an_excluded_directory_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    scandir = os.scandir

    def noting(path: str) -> object:
        read.append(os.path.relpath(path, root))
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", noting)
        left(root, "**/node_modules\n.git\n!sub/keep")
    assert sorted(read) == [".", "sub", "sub/deep"]


def test_the_dockerfiles_own_ignore_file_comes_first(root: Path, tmp_path: Path) -> None:
    (root / ".dockerignore").write_text("a.txt")
    own = root / "docker" / "web.Dockerfile"
    own.parent.mkdir()
    assert load_ignore(root, own).file == root / ".dockerignore"
    (own.parent / "web.Dockerfile.dockerignore").write_text("b.md")
    names = {entry.path for entry in Context.open(root, own).walk()}
    assert "a.txt" in names
    assert "b.md" not in names


@pytest.mark.parametrize("pattern", ["[a", "x/[", "a\\", "!", "[]x]", "[-a]"])
def test_a_malformed_pattern_is_named_with_its_line(pattern: str) -> None:
    with pytest.raises(ContextError, match="malformed pattern") as caught:
        parse_ignore(f"ok\n{pattern}\n".encode(), Path("/c/.dockerignore"))
    assert str(caught.value).startswith("/c/.dockerignore:2:1: ")
    assert caught.value.remedy


def test_explain_names_the_rule_that_decides(root: Path) -> None:
    ignore = parse_ignore(b"sub\n\n**/*.md\n!b.md\n", root / ".dockerignore")
    assert ignore.explain("sub/file") == "line 1 of .dockerignore (sub) excludes sub/file"
    assert ignore.explain("sub/deep/b.md") == "line 3 of .dockerignore (**/*.md) excludes sub/deep/b.md"
    assert ignore.explain("b.md") == ""
    assert ignore.explain("a.txt") == ""


def one_by_one(patterns: Sequence[str], path: str, above: Sequence[bool]) -> tuple[bool, list[bool]]:
    """moby/patternmatcher's MatchesUsingParentResults, as it is written there."""
    matched, info = False, []
    for number, pattern in enumerate(patterns):
        exception = pattern.startswith("!")
        hit = bool(above) and above[number]
        if not hit and exception == matched:
            hit = PatternMatcher([pattern.removeprefix("!")]).match(path)[0]
        info.append(hit)
        if hit:
            matched = not exception
    return matched, info


@given(
    st.lists(st.from_regex(r"!?(\*\*/)?[ab*?]{1,2}(/[ab*]{1,2}){0,2}", fullmatch=True), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=4),
)
def test_patterns_together_decide_as_one_by_one(patterns: list[str], names: list[str]) -> None:
    matcher = PatternMatcher(patterns)
    info: tuple[bool, ...] = ()
    above: list[bool] = []
    for depth in range(len(names)):
        path = "/".join(names[: depth + 1])
        excluded, info = matcher.match(path, info)
        expected, above = one_by_one(patterns, path, above)
        assert excluded == expected
        if matcher.has_exceptions:
            assert list(info) == above
