"""Large files in pieces whose ends depend on what stands there: bytes put in somewhere change the pieces around, not
all that follow.

A piece ends behind six bytes of a rare kind, about one place in a MiB. What is rare is decided by a hash of eight bits
at every place: permutations of the byte values, combined by exclusive or. All places of a block are hashed at once by
treating the block as one long integer, since a loop over bytes would take a hundred times as long. Only what lies
between the least and the most size is looked at (as in FastCDC), which about halves the work: 200 MB/s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator

#: Bytes of a piece; the last one of a file may be smaller.
LEAST, MOST = 1 << 20, 8 << 20

_BLOCK = 1 << 16
#: A place is judged by so many bytes before it.
_WINDOW = 6
#: The hashes of three places in a row: 8 + 8 + 4 bits that are zero.
_RARE = re.compile(rb"\0\0[\0-\x0f]")


def _permutation(number: int) -> bytes:
    return bytes(sorted(range(256), key=lambda value: hashlib.sha256(bytes((number, value))).digest()))


_FIRST, _SECOND, _THIRD = (_permutation(number) for number in range(3))


def pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What `read` gives, cut. `read(n)` returns at most n bytes, and b"" at the end."""
    buffer = bytearray()
    while True:
        while len(buffer) < MOST and (data := read(MOST - len(buffer))):
            buffer += data
        if not buffer:
            return
        end = _end(buffer)
        yield bytes(memoryview(buffer)[:end])
        del buffer[:end]


def _end(data: bytearray) -> int:
    """Where the first piece of `data` ends; `data` is MOST bytes long, or all there is."""
    for start in range(LEAST - _WINDOW, len(data) - _WINDOW, _BLOCK):
        if found := _RARE.search(_hashes(bytes(data[start : start + _BLOCK + _WINDOW - 1]))):
            return start + found.start() + _WINDOW
    return len(data)


def _hashes(block: bytes) -> bytes:
    """One byte for every four bytes in a row."""
    count = len(block) - 3
    if count <= 0:
        return b""
    pairs = _integer(block.translate(_FIRST)[1:]) ^ _integer(block.translate(_SECOND)[:-1])
    two = pairs.to_bytes(count + 2, "little")
    return (_integer(two[2:]) ^ _integer(two.translate(_THIRD)[:-2])).to_bytes(count, "little")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")
