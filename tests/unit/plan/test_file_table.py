"""The table of a COPY's files: a round trip, limits, and what is no table."""

from __future__ import annotations

import base64
import hashlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.plan.file_table import LONGEST, MOST_FILES, compare, decode, encode

marks = st.binary(min_size=4, max_size=4)


def mark(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:4]


@given(st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), marks))
def test_a_table_survives(files: dict[str, bytes]) -> None:
    assert decode(encode(files)) == files


def test_a_name_that_is_not_unicode_survives() -> None:
    files = {b"caf\xe9".decode("utf-8", "surrogateescape"): b"1234"}
    assert decode(encode(files)) == files


def test_a_table_is_short_or_not_there() -> None:
    usual = {f"src/package_{n % 40}/module_{n}.py": mark(str(n)) for n in range(812)}
    assert 0 < len(encode(usual)) < 10_000
    assert encode({str(n): b"1234" for n in range(MOST_FILES + 1)}) == ""
    long_names = {hashlib.sha256(str(n).encode()).hexdigest(): mark(str(n)) for n in range(3000)}
    assert encode(long_names) == ""
    assert len(encode(dict(list(long_names.items())[:800]))) <= LONGEST


def packed(raw: bytes) -> str:
    return base64.b64encode(zstandard.compress(raw)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "%",
        "AAAA",
        packed(b""),
        packed(b"\0\0\0\2a\0"),
        packed(b"\0\0\0\1a\0123"),
        packed(b"\xff\xff\xff\xff"),
        packed(b"\0" * (17 << 20)),
    ],
)
def test_what_is_no_table(text: str) -> None:
    with pytest.raises(ValueError, match="table"):
        decode(text)


def test_directories_count_only_alone() -> None:
    before = {"a/": b"1111", "a/x": b"2222"}
    changes = compare(before, {"a/": b"3333", "a/x": b"2222"})
    assert (changes.modified, changes.total) == (("a/",), 1)
    changes = compare(before, {"a/": b"3333", "a/x": b"4444", "b/": b"1111", "b/y": b"2222"})
    assert (changes.added, changes.modified, changes.removed, changes.total) == (("b/y",), ("a/x",), (), 2)
