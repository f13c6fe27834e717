"""Cutting large files: the bytes come back, and a change stays where it is."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.mounts import pieces as module
from ci_plugins.mounts.pieces import LEAST, MOST, pieces

MIB = 1 << 20


def cut(data: bytes) -> list[bytes]:
    return list(pieces(io.BytesIO(data).read))


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_the_bytes_come_back_however_they_are_read(data: bytes, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST", 64)
        patch.setattr(module, "MOST", 512)
        stream = io.BytesIO(data)
        found = list(pieces(lambda size: stream.read(min(size, step))))
        assert b"".join(found) == data
        assert found == cut(data)
    assert all(0 < len(piece) <= 512 for piece in found)
    assert all(len(piece) >= 64 for piece in found[:-1])


def test_pieces_have_a_reasonable_size() -> None:
    found = cut(random.Random(1).randbytes(24 * MIB))
    assert all(LEAST <= len(piece) <= MOST for piece in found[:-1])
    assert 6 <= len(found) <= 20


@settings(max_examples=5)
@given(st.integers(0, 16 * MIB), st.binary(min_size=1, max_size=5000), st.integers(0, 3))
def test_an_insertion_changes_few_pieces(place: int, inserted: bytes, seed: int) -> None:
    data = random.Random(seed).randbytes(16 * MIB)
    before = set(cut(data))
    changed = [piece for piece in cut(data[:place] + inserted + data[place:]) if piece not in before]
    assert sum(map(len, changed)) <= 10 * MIB
    assert len(changed) < len(before)


def test_text_is_cut_too_and_sameness_does_no_harm() -> None:
    chance = random.Random(2)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(5000)]
    text = " ".join(chance.choices(words, k=2_500_000)).encode()
    before = set(cut(text))
    assert len(before) >= 4
    after = cut(b"one more line " + text)
    assert sum(len(piece) for piece in after if piece not in before) < len(text) / 2
    assert b"".join(cut(bytes(20 * MIB))) == bytes(20 * MIB)


def test_where_it_cuts_never_changes() -> None:
    """Other cuts would make every saved mount be sent again."""
    sizes = [len(piece) for piece in cut(random.Random(3).randbytes(8 * MIB))]
    assert sizes == SIZES


SIZES = [2239743, 2370046, 1596225, 1901101, 281493]
