"""Go's filepath.Match, from its documentation and table of tests."""

from __future__ import annotations

import pytest

from ci_plugins.layer.copy_patterns import PatternMatcher, compile_glob, has_wildcards


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*", ".hidden", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a???b", "a☺☻b", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[x\\-]", "z", False),
        ("arr[[]0].txt", "arr[0].txt", True),
        ("[!a]", "!", True),
        ("[z-a]", "b", False),
        ("(a+b)|$", "(a+b)|$", True),
    ],
)
def test_glob(pattern: str, name: str, matches: bool) -> None:
    assert (compile_glob(pattern).fullmatch(name) is not None) == matches


@pytest.mark.parametrize("pattern", ["[]a]", "[-]", "[x-]", "[-x]", "a[", "[", "[^", "[^bc", "a\\"])
def test_malformed(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"backslash|not closed|unexpected"):
        compile_glob(pattern)


def test_wildcards_may_be_hidden() -> None:
    assert [has_wildcards(text) for text in ("a*", "a?", "[a]", "a]", "a\\*", "a\\\\*")] == [
        True, True, True, False, False, True,
    ]  # fmt: skip


def test_reaching_below_a_directory() -> None:
    matcher = PatternMatcher(["*", "!src/*/keep", "!**/deep", "!a/b"])
    assert [matcher.may_except_below(path) for path in ("src", "src/x", "a", "z")] == [True] * 4
    matcher = PatternMatcher(["*", "!src/*/keep", "!a/b"])
    assert [matcher.may_except_below(path) for path in ("src", "src/x", "src/x/keep", "a", "a/b", "z")] == [
        True, True, False, True, False, False,
    ]  # fmt: skip
