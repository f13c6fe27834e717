from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.toc import Toc, sorted_entries

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: b"/".join(parts).decode("utf-8", "surrogateescape"))
ENTRIES = st.builds(
    Entry,
    PATHS,
    st.sampled_from(list(EntryType)),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**62),
    st.integers(-(2**62), 2**62),
    PATHS,
    st.tuples(st.integers(0, 4095), st.integers(0, 2**20)),
    st.dictionaries(st.sampled_from(["security.capability", "user.ä"]), st.binary(max_size=30), max_size=2),
)


@given(st.lists(ENTRIES, max_size=20), st.dictionaries(PATHS, st.binary(max_size=50), max_size=2))
def test_bytes_and_back(entries: list[Entry], kept: dict[str, bytes]) -> None:
    toc = Toc(tuple(entries), kept)
    assert Toc.from_bytes(toc.to_bytes()) == toc


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.data())
def test_damage_is_noticed(entries: list[Entry], data: st.DataObject) -> None:
    whole = Toc(tuple(entries)).to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptLayer):
        Toc.from_bytes(whole[:cut])
    flipped = bytearray(whole)
    flipped[cut] ^= data.draw(st.integers(1, 255))
    with suppress(CorruptLayer):  # or it is a bit that decoders do not look at
        assert Toc.from_bytes(bytes(flipped)) == Toc(tuple(entries))


def test_another_version_is_refused() -> None:
    whole = Toc(()).to_bytes()
    line, _, rest = whole.partition(b"\n")
    with pytest.raises(CorruptLayer, match="another version"):
        Toc.from_bytes(line.replace(b"1", b"2") + b"\n" + rest)


def test_it_is_compact() -> None:
    entries = [Entry(f"usr/lib/package{i // 50}/file{i}.js", EntryType.FILE, 0o644, 0, 0, i * 7) for i in range(5000)]
    assert len(Toc(tuple(entries)).to_bytes()) < 10 * len(entries)


def test_implied_parents_are_those_without_an_entry() -> None:
    entries = (
        Entry("a", EntryType.DIRECTORY),
        Entry("a/b/c/file", EntryType.FILE),
        Entry("gone/x", EntryType.WHITEOUT),
        Entry("opaque", EntryType.OPAQUE),
    )
    assert Toc(entries).implied_parents() == ("", "a/b", "a/b/c", "gone", "opaque")
    assert Toc((Entry("", EntryType.DIRECTORY),)).implied_parents() == ()
    assert Toc(()).implied_parents() == ("",)


def test_missing_links_are_those_to_layers_below() -> None:
    link = Entry("b", EntryType.HARDLINK, link="a")
    assert Toc((Entry("a", EntryType.FILE), link)).missing_links() == ()
    assert Toc((link, replace(link, path="c", link="d/e"))).missing_links() == (("b", "a"), ("c", "d/e"))


def test_an_opaque_marker_follows_its_directory() -> None:
    entries = sorted_entries([Entry("a/b", EntryType.FILE), Entry("a", EntryType.DIRECTORY)], ["a"])
    assert [(entry.path, entry.type.value) for entry in entries] == [("a", "d"), ("a", "o"), ("a/b", "f")]
