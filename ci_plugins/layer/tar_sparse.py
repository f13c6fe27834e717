"""Sparse files in tar archives, as GNU tar writes them (GNU tar manual, "Storing Sparse Files"): the old GNU header,
PAX 0.0, 0.1 and 1.0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.tar import Buffer
from ci_plugins.layer.tar_fields import Pax, decimal, number

#: (offset, length) of bytes that are stored; between them are holes
Segment = tuple[int, int]

_RECORD = 512
_ZEROS = bytes(1 << 20)
#: Go stops at 1 MiB of map; a segment takes at least four bytes of it.
_MAX_SEGMENTS = 1 << 18


def pax_version(pax: Pax) -> str:
    """ "1.0", "0.x" or "" for a member that is not sparse, or is in a way nobody knows: then it is an ordinary file."""
    version = pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")
    if version == (b"1", b"0"):
        return "1.0"
    if version in ((b"0", b"0"), (b"0", b"1")) or (version == (None, None) and "GNU.sparse.map" in pax):
        return "0.x"
    return ""


def gnu_map(header: bytes, next_record: Callable[[], bytes]) -> tuple[list[Segment], int]:
    """Map and real size of an old GNU sparse member: four segments in the header, more in records after it."""
    segments = _packed(header[386:482])
    more = header[482]
    while more:
        record = next_record()
        segments += _packed(record[:504])
        more = record[504]
        _limit(segments)
    return segments, number(header[483:495])


def _packed(area: bytes) -> list[Segment]:
    segments = []
    for at in range(0, len(area) - 23, 24):
        if not area[at]:
            break
        segments.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return segments


def pax_map(pax: Pax) -> list[Segment]:
    """The map of PAX 0.0 and 0.1: in one record, numbers separated by commas."""
    numbers = [decimal(text) for text in pax.get("GNU.sparse.map", b"").split(b",") if text]
    if len(numbers) % 2 or len(numbers) != 2 * decimal(pax.get("GNU.sparse.numblocks", b"0")):
        raise CorruptLayer("the archive has a sparse map with a number too many or missing")
    segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    _limit(segments)
    return segments


def pax_map_in_data(next_record: Callable[[], bytes]) -> list[Segment]:
    """The map of PAX 1.0: decimal lines at the beginning of the content, filled up to a whole record."""
    lines: list[bytes] = []
    rest = b""

    def line() -> int:
        nonlocal lines, rest
        while not lines:
            *lines, rest = (rest + next_record()).split(b"\n")
            lines.reverse()
            if len(rest) > _RECORD:
                raise CorruptLayer("the archive has a sparse map that is none")
        return decimal(lines.pop())

    count = line()
    if not 0 <= count <= _MAX_SEGMENTS:
        raise CorruptLayer(f"the archive has a sparse map of {count} pieces")
    return [(line(), line()) for _ in range(count)]


def expand(segments: Iterable[Segment], size: int, stored: Iterator[Buffer]) -> Iterator[Buffer]:
    """The whole file: stored bytes at their places, zero bytes in the holes."""
    at = 0
    rest: Buffer = b""
    for offset, length in segments:
        if offset < at or length < 0 or offset + length > size:
            raise CorruptLayer("the archive has a sparse map whose pieces overlap or lie outside the file")
        yield from _hole(offset - at)
        at = offset + length
        while length:
            if not rest:
                rest = memoryview(next(stored, rest))
                if not rest:
                    raise CorruptLayer("the archive has a sparse file with fewer bytes than its map says")
            piece, rest = rest[:length], rest[length:]
            length -= len(piece)
            yield piece
    if rest or next(stored, rest):
        raise CorruptLayer("the archive has a sparse file with more bytes than its map says")
    yield from _hole(size - at)


def _hole(length: int) -> Iterator[Buffer]:
    while length > 0:
        yield memoryview(_ZEROS)[:length]
        length -= len(_ZEROS)


def _limit(segments: list[Segment]) -> None:
    if len(segments) > _MAX_SEGMENTS:
        raise CorruptLayer("the archive has a sparse map without an end")
