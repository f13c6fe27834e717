from __future__ import annotations

import gzip
import os
import random
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.errors import ConfigError, CorruptLayer
from ci_plugins.layer.compress import CHUNK, Compression, Kind, compression_of, decompress
from ci_plugins.oci import media

KINDS: list[Kind] = ["gzip", "zstd"]


def text(size: int) -> bytes:
    return (b"".join(b"line %d of a file\n" % i for i in range(size // 15 + 1)))[:size]


def compressed(data: bytes, how: Compression, chunk: int = CHUNK) -> bytes:
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return b"".join(part for piece in pieces for part in how.compress_chunk([piece], len(piece)))


@pytest.mark.parametrize("level", [None, 0, 1, 3, 4, 9])
def test_gzip_members_are_one_file_to_others(level: int | None) -> None:
    data = text(300_000)
    whole = compressed(data, Compression("gzip", level), 100_000)
    assert gzip.decompress(whole) == data
    assert whole.count(b"\x1f\x8b\x08\x00\0\0\0\0") == 3  # no name, modification time 0


@pytest.mark.parametrize("level", [None, 1, 19])
def test_zstd_frames_are_one_file_to_others(level: int | None) -> None:
    data = text(300_000)
    whole = compressed(data, Compression("zstd", level), 100_000)
    reader = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
    assert reader.read() == data


def test_a_higher_level_is_smaller() -> None:
    data = text(1 << 20)
    sizes = [len(compressed(data, Compression("gzip", level))) for level in (1, 6)]
    assert sizes[1] < sizes[0] < len(data) / 3


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_chunk_is_cut_into_pieces_does_not_matter(kind: Kind) -> None:
    data, how = text(100_000), Compression(kind)
    pieces = [data[:1], data[1:70_000], data[70_000:]]
    assert b"".join(how.compress_chunk(pieces, len(data))) == compressed(data, how)


@pytest.mark.parametrize(
    ("kind", "level"), [("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23), ("none", 1), ("xz", 1)]
)
def test_impossible_settings(kind: Kind, level: int) -> None:
    with pytest.raises(ConfigError):
        Compression(kind, level)


@given(
    st.sampled_from([*KINDS, "none"]), st.binary(min_size=1, max_size=3000), st.integers(1, 2000), st.integers(1, 99)
)
def test_there_and_back(kind: Kind, data: bytes, chunk: int, block: int) -> None:
    whole = compressed(data, Compression(kind), chunk)
    blocks = (whole[at : at + block] for at in range(0, len(whole), block))
    assert b"".join(decompress(blocks, kind)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed_but_those_between_members(kind: Kind) -> None:
    how = Compression(kind)
    first, second = (b"".join(how.compress_chunk([part], len(part))) for part in (b"hello" * 100, os.urandom(300)))
    whole = first + second
    for size in (1, 7, 10_000):
        for cut in range(len(whole)):
            blocks = [whole[at : min(at + size, cut)] for at in range(0, cut, size)]
            if cut == len(first):
                assert b"".join(decompress(blocks, kind)) == b"hello" * 100
                continue
            with pytest.raises(CorruptLayer):
                list(decompress(blocks, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"", b"neither of the two", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"])
def test_other_data_is_refused(kind: Kind, data: bytes) -> None:
    with pytest.raises(CorruptLayer):
        list(decompress([data], kind))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_raises_nothing_else(kind: Kind) -> None:
    chance = random.Random(4)
    whole = compressed(text(4000), Compression(kind), 1000)
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            list(decompress([bytes(damaged)], kind))
        except CorruptLayer:
            continue


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_comes_in_small_blocks(kind: Kind) -> None:
    """64 MiB of zero bytes from a few KiB: nothing larger than a MiB is ever held."""
    whole = zlib.compress(bytes(64 << 20), 9, 31) if kind == "gzip" else zstandard.compress(bytes(64 << 20))
    sizes = [len(block) for block in decompress([whole], kind)]
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_source_pass(kind: Kind) -> None:
    whole = compressed(text(100_000), Compression(kind))

    def blocks() -> Iterator[bytes]:
        yield whole[: len(whole) // 2]
        raise ConnectionResetError("reset")

    with pytest.raises(ConnectionResetError):
        list(decompress(blocks(), kind))


def test_media_types() -> None:
    assert Compression("zstd").media_type == media.OCI_LAYER_ZSTD
    assert compression_of(media.DOCKER_LAYER_GZIP) == "gzip"
    with pytest.raises(CorruptLayer, match="text/plain"):
        compression_of("text/plain")
