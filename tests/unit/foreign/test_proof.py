"""Whether a layer holds what a COPY would write: what counts and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ci_plugins.foreign.proof import same_contents
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.toc import Toc, sorted_entries
from ci_plugins.layer.tree import LayerTree
from ci_plugins.oci import Digest, sha256_digest

D, F, L, H, W = (
    EntryType.DIRECTORY,
    EntryType.FILE,
    EntryType.SYMLINK,
    EntryType.HARDLINK,
    EntryType.WHITEOUT,
)
BELOW = LayerTree([Toc(sorted_entries([Entry("srv", D, 0o755), Entry("opt", D, 0o700, 5, 5)], ()))])
DATA = b"flask\n"
ITEMS = [
    Item(Entry("srv/app", D, 0o755, mtime_ns=7)),
    Item(Entry("srv/app/link", L, 0o777, link="req")),
    Item(Entry("srv/app/req", F, 0o640, 1, 2, len(DATA), 7), DATA),
]
DIGESTS = {"srv/app/req": sha256_digest(DATA)}


def same(entries: list[Entry], digests: Mapping[str, Digest] = DIGESTS, opaque: tuple[str, ...] = ()) -> bool:
    return same_contents(ITEMS, Toc(sorted_entries(entries, opaque)), digests, BELOW)


THEIRS = [item.entry for item in ITEMS]


def test_times_and_repeated_directories_do_not_count() -> None:
    assert same(THEIRS)
    assert same([replace(entry, mtime_ns=99) for entry in THEIRS])
    assert same([*THEIRS, Entry("srv", D, 0o755, mtime_ns=3), Entry("", D, 0o700)])
    assert same([replace(entry, mode=0o755) if entry.type is L else entry for entry in THEIRS])


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o644},
        {"uid": 0},
        {"gid": 0},
        {"size": 7},
        {"type": D, "size": 0},
        {"xattrs": {"user.x": b"1"}},
        {"path": "srv/app/other"},
        {"type": H, "link": "srv/other", "size": 0},
    ],
)
def test_a_file_that_differs(change: dict[str, Any]) -> None:
    assert not same([replace(entry, **change) if entry.path == "srv/app/req" else entry for entry in THEIRS])


def test_bytes_that_differ() -> None:
    assert not same(THEIRS, {"srv/app/req": sha256_digest(b"flasK\n")})
    assert not same(THEIRS, {})


@pytest.mark.parametrize(
    "extra",
    [
        Entry("srv/more", F, 0o644),
        Entry("srv/more", D, 0o755),
        Entry("opt", D, 0o755, 5, 5),
        Entry("srv/gone", W),
        Entry("srv/app/req2", H, 0o640, 1, 2, link="srv/app/req"),
    ],
)
def test_more_than_the_copy_writes(extra: Entry) -> None:
    assert not same([*THEIRS, extra])


def test_less_than_the_copy_writes() -> None:
    for entry in THEIRS:
        assert not same([other for other in THEIRS if other is not entry])


def test_an_opaque_directory_hides_what_is_below() -> None:
    assert not same(THEIRS, opaque=("srv/app",))


def test_a_link_that_points_elsewhere() -> None:
    assert not same([replace(entry, link="other") if entry.type is L else entry for entry in THEIRS])
