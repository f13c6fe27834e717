"""Word expansion, as a table; the values are those of BuildKit's shell lexer."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.dockerfile.expand import Scope, expand_document, expand_word, expand_words
from ci_plugins.dockerfile.pattern import remove_prefix, remove_suffix, substitute
from ci_plugins.errors import ExpansionError

VARIABLES = {
    "A": "one",
    "B": "two words",
    "EMPTY": "",
    "PATHS": "/usr/local/bin:/usr/bin",
    "FILE": "archive.tar.gz",
    "STAR": "a*b",
    "PATTERN": "*.",
    "_x1": "underscore",
    "Ü": "umlaut",
    "1": "digit",
}

WORDS = [
    # plain, quotes, escapes
    ("", ""),
    ("hello", "hello"),
    ("hello  world ", "hello  world "),
    ("'single $A \\n'", "single $A \\n"),
    ('"double $A"', "double one"),
    ('"it\'s"', "it's"),
    ("'say \"x\"'", 'say "x"'),
    ('a"b"c', "abc"),
    ("a''b", "ab"),
    ("\\$A", "$A"),
    ("\\\\$A", "\\one"),
    ("a\\ b", "a b"),
    ("a\\", "a"),
    ('"\\$A \\" \\\\ \\n"', '$A " \\ \\n'),
    ("\\'", "'"),
    # names
    ("$A", "one"),
    ("${A}", "one"),
    ("$A$A", "oneone"),
    ("${A}x", "onex"),
    ("$Ax", ""),
    ("$A-x", "one-x"),
    ("$A.x", "one.x"),
    ("$_x1", "underscore"),
    ("$Ü!", "umlaut!"),
    ("$1x", "digitx"),
    ("$12", ""),
    ("$", "$"),
    ("a$", "a$"),
    ("$ A", "$ A"),
    ("$/", "$/"),
    ("$$A", "A"),
    ("$NONE", ""),
    ("<$NONE>", "<>"),
    ("$B", "two words"),
    # set, unset, empty
    ("${NONE-d}", "d"),
    ("${NONE:-d}", "d"),
    ("${EMPTY-d}", ""),
    ("${EMPTY:-d}", "d"),
    ("${A-d}", "one"),
    ("${A:-d}", "one"),
    ("${NONE+d}", ""),
    ("${NONE:+d}", ""),
    ("${EMPTY+d}", "d"),
    ("${EMPTY:+d}", ""),
    ("${A+d}", "d"),
    ("${A:+d}", "d"),
    ("${A?no}", "one"),
    ("${EMPTY?no}", ""),
    ("${A:?no}", "one"),
    ("${NONE:-}", ""),
    ("${NONE:-a b}", "a b"),
    ("${NONE:-'a $A'}", "a $A"),
    ('${NONE:-"a $A"}', "a one"),
    ("${NONE:-a\\}b}", "a}b"),
    ("${NONE:-a:b}", "a:b"),
    # nested
    ("${NONE:-$A}", "one"),
    ("${NONE:-${EMPTY:-${A}}}", "one"),
    ("${A:+${B}}", "two words"),
    ('"${NONE:-"x $A"}"', "x one"),
    # shell patterns
    ("${FILE#*.}", "tar.gz"),
    ("${FILE##*.}", "gz"),
    ("${FILE%.*}", "archive.tar"),
    ("${FILE%%.*}", "archive"),
    ("${PATHS#/usr/}", "local/bin:/usr/bin"),
    ("${PATHS#usr}", "/usr/local/bin:/usr/bin"),
    ("${PATHS%:*}", "/usr/local/bin"),
    ("${FILE#?}", "rchive.tar.gz"),
    ("${FILE%??}", "archive.tar."),
    ("${FILE#*}", "archive.tar.gz"),
    ("${FILE##*}", ""),
    ("${STAR#a\\*}", "b"),
    ("${STAR%\\*b}", "a"),
    ("${FILE#${PATTERN}}", "tar.gz"),
    ("${FILE#[a]}", "archive.tar.gz"),
    ("${NONE#x}", ""),
    ("${FILE/a/A}", "Archive.tar.gz"),
    ("${FILE//a/A}", "Archive.tAr.gz"),
    ("${FILE//./}", "archivetargz"),
    ("${FILE/.*/}", "archive"),
    ("${FILE/?r/-}", "-chive.tar.gz"),
    ("${FILE//[/x}", "archive.tar.gz"),
    ("${PATHS//\\//_}", "_usr_local_bin:_usr_bin"),
    ("${FILE/none/x}", "archive.tar.gz"),
    ("${FILE//a*/x}", "x"),
    ("${FILE/$NONE/x}", "xarchive.tar.gz"),
    ("${A/one/${B}}", "two words"),
]


@pytest.mark.parametrize(("word", "expected"), WORDS)
def test_expand_word(word: str, expected: str) -> None:
    assert expand_word(word, Scope(VARIABLES)) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("`$A", "$A"), ("c:\\$A", "c:\\one"), ('"`"\\x"', '"\\x'), ("a`", "a"), ("``", "`"), ("${A#o`n}", "one")],
)
def test_escape_character_backtick(word: str, expected: str) -> None:
    assert expand_word(word, Scope(VARIABLES), "`") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  a  b ", ("a", "b")),
        ("$B", ("two", "words")),
        ('"$B"', ("two words",)),
        ("x$B", ("xtwo", "words")),
        ("a\\ b c", ("a b", "c")),
        ("'a b'c", ("a bc",)),
        ("$NONE $A", ("one",)),
        ('""', ()),
    ],
)
def test_expand_words_splits_outside_of_quotes(text: str, expected: tuple[str, ...]) -> None:
    assert expand_words(text, Scope(VARIABLES)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'$A' \"$B\"\n", "'one' \"two words\"\n"),
        ("\\$A \\\\ \\x\n", "$A \\ x\n"),
        ("it's ${NONE:-fine}", "it's fine"),
    ],
)
def test_document_keeps_its_quotes(text: str, expected: str) -> None:
    assert expand_document(text, Scope(VARIABLES)) == expected


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("'open", "single quote"),
        ('"open', "double quote"),
        ("${", "missing '}'"),
        ("${A", "missing '}'"),
        ("${A:-x", "missing '}'"),
        ("${A/x", "missing '/'"),
        ("${A/x/y", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${{A}}", "bad substitution"),
        ("${A!}", "unsupported modifier '!'"),
        ("${A:}", "unsupported modifier"),
        ("${A,,}", "unsupported modifier ','"),
        ("${NONE?}", "NONE: it is not set"),
        ("${NONE:?say $A}", "NONE: say one"),
        ("${EMPTY:?}", "EMPTY: it is empty"),
        ("${A#\\x}", "invalid escape \\x"),
        ("${A//\\y/}", "invalid escape \\y"),
        ("${A:-" * 70 + "}" * 70, "nested"),
    ],
)
def test_refused(word: str, why: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand_word(word, Scope(VARIABLES))
    assert why in caught.value.message
    assert caught.value.remedy


def test_scope_records_what_was_asked_for() -> None:
    scope = Scope(VARIABLES)
    expand_word("$A ${NONE:-$FILE} '$B' ${EMPTY:+x} \\$PATHS", scope)
    assert scope.used == {"A", "FILE", "EMPTY"}
    assert scope.missing == {"NONE"}


def test_a_wildcard_does_not_match_a_newline() -> None:
    assert expand_word("${X#*b}", Scope({"X": "a\nb"})) == "a\nb"


def test_patterns_take_no_exponential_time() -> None:
    value = "a" * 2000
    assert remove_prefix("*a" * 30 + "b", value, longest=True) == value
    assert substitute("a*a*a*a*b", "x", value[:400], every=True) == value[:400]


simple = st.text("ab", max_size=8)
patterns = st.text("ab*?", max_size=5)


@given(patterns, simple)
def test_prefix_and_suffix_agree_with_every_split(pattern: str, value: str) -> None:
    """Checked against trying every prefix with a matcher of its own."""
    ends = [end for end in range(len(value) + 1) if matches(pattern, value[:end])]
    starts = [start for start in range(len(value) + 1) if matches(pattern, value[start:])]
    assert remove_prefix(pattern, value, longest=False) == (value[ends[0] :] if ends else value)
    assert remove_prefix(pattern, value, longest=True) == (value[ends[-1] :] if ends else value)
    assert remove_suffix(pattern, value, longest=False) == (value[: starts[-1]] if starts else value)
    assert remove_suffix(pattern, value, longest=True) == (value[: starts[0]] if starts else value)


def matches(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(matches(pattern[1:], text[skip:]) for skip in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and matches(pattern[1:], text[1:])


@given(st.text("$A{}:-+?#%/'\"\\<* x", max_size=30))
def test_any_text_expands_or_is_refused(text: str) -> None:
    for expand in (expand_word, expand_words, expand_document):
        with suppress(ExpansionError):
            expand(text, Scope({"A": "a x"}))


@given(st.text(st.characters(exclude_characters="$'\"\\", exclude_categories=["Cs"])))
def test_text_without_special_characters_is_itself(text: str) -> None:
    assert expand_word(text, Scope({})) == text
