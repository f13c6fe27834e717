"""A request's body, read in large blocks: of known length, or in chunks (RFC 9112, sections 6 and 7.1)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Protocol

from ci_plugins.serve.refusal import ClientGone, Refusal

_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}\Z")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_LONGEST_LINE = 8192


class Reader(Protocol):
    """The buffered side of a socket, or any buffered stream."""

    def readinto1(self, buffer: memoryview, /) -> int: ...

    def readline(self, size: int, /) -> bytes: ...


class Body:
    """Read once, to its end. A reader's `readinto1` goes straight from the socket into our block when that is larger
    than what is buffered, so bytes are copied once."""

    def __init__(self, reader: Reader, length: int | None) -> None:
        """`length` in bytes; None is chunked."""
        self._reader = reader
        self._chunked = length is None
        #: of the body, or of the chunk that is being read
        self._left = length or 0
        self._first = True
        self.ended = length == 0
        #: what follows cannot be understood
        self.broken = False
        #: bytes read until now
        self.read = 0

    @classmethod
    def of(cls, reader: Reader, headers: Mapping[str, str]) -> Body:
        """What the headers announce. Raises Refusal where they are not to be understood."""
        coding = headers.get("Transfer-Encoding")
        if coding is not None:
            if coding.strip().lower() != "chunked" or "Content-Length" in headers:
                raise Refusal(400, "UNSUPPORTED", f"cannot read a body with Transfer-Encoding {coding!r}")
            return cls(reader, None)
        length = headers.get("Content-Length", "0")
        if not _LENGTH.match(length):
            raise Refusal(400, "SIZE_INVALID", f"not a Content-Length: {length!r}")
        return cls(reader, int(length))

    def fill(self, block: memoryview) -> int:
        """Read until the block is full or the body ends; returns how much, 0 at the end.

        Raises ClientGone, but first returns what had arrived; Refusal for broken chunks.
        """
        filled = 0
        try:
            while filled < len(block) and not self.ended:
                if self._left == 0 and not self._next_chunk():
                    break
                got = self._reader.readinto1(block[filled : filled + self._left])
                if got == 0:
                    raise ClientGone
                self._left -= got
                filled += got
                self.ended = not self._chunked and self._left == 0
        except Refusal:
            self.broken = True
            raise
        except (ClientGone, OSError) as error:
            if not filled:
                raise ClientGone from error
        self.read += filled
        return filled

    def whole(self, limit: int) -> bytes:
        """All of a small body. Raises Refusal (413) if it is larger than `limit` bytes."""
        block = memoryview(bytearray(limit + 1))
        filled = 0
        while got := self.fill(block[filled:]):
            filled += got
        if filled > limit:
            raise Refusal(413, "SIZE_INVALID", f"larger than the {limit} bytes that are taken here")
        return bytes(block[:filled])

    def discard(self, limit: int, seconds: float) -> None:
        """Read on to the end, but no more than `limit` bytes, and about that long."""
        block = memoryview(bytearray(1 << 16))
        until = time.monotonic() + seconds
        while limit > 0 and time.monotonic() < until and (got := self.fill(block)):
            limit -= got

    def _next_chunk(self) -> bool:
        if not self._first and self._line():
            raise Refusal(400, "BLOB_UPLOAD_INVALID", "a chunk is longer than it says")
        self._first = False
        size = self._line().partition(b";")[0].strip()
        if not _CHUNK_SIZE.match(size):
            raise Refusal(400, "BLOB_UPLOAD_INVALID", f"not the size of a chunk: {size[:20]!r}")
        self._left = int(size, 16)
        if self._left == 0:
            while self._line():  # trailers
                pass
            self.ended = True
        return not self.ended

    def _line(self) -> bytes:
        line = self._reader.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ClientGone
        return line.rstrip(b"\r\n")
