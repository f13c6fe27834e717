"""From the bytes a command writes to lines for people."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: A longer line is shown in pieces of this many bytes.
MAX_LINE = 16 * 1024

#: How many lines an error message repeats.
TAIL = 40


class LineReader:
    """Cuts a stream into lines and hands each to `sink` as soon as it is complete.

    A line that was written over (progress bars: "10%\\r20%\\r…\\n") counts as what was to be read in the end. Bytes
    that are not UTF-8 become U+FFFD. Memory stays below two lines however long the lines are.
    """

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._pending = b""
        self._tail: deque[str] = deque(maxlen=TAIL)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        return tuple(self._tail)

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._pending + data).split(b"\n")
        for line in lines:
            self._take(line)
        self._pending = _shown(rest)
        while len(self._pending.rstrip(b"\r")) > MAX_LINE:
            cut = _character_start(self._pending, MAX_LINE)
            self._emit(self._pending[:cut])
            self._pending = self._pending[cut:]

    def close(self) -> None:
        """The stream has ended, maybe in the middle of a line."""
        if self._pending:
            self._take(self._pending)
        self._pending = b""

    def _take(self, line: bytes) -> None:
        line = _shown(line).removesuffix(b"\r")
        while len(line) > MAX_LINE:
            cut = _character_start(line, MAX_LINE)
            self._emit(line[:cut])
            line = line[cut:]
        self._emit(line)

    def _emit(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        self._tail.append(text)
        self._sink(text)


def _shown(line: bytes) -> bytes:
    """What is left of a line after its carriage returns; the last one stays, as more may follow it."""
    start = line.rfind(b"\r", 0, len(line.rstrip(b"\r"))) + 1
    return line[start:]


def _character_start(line: bytes, limit: int) -> int:
    """The last place up to `limit` that does not cut a UTF-8 character, if these bytes are UTF-8 at all."""
    cut = limit
    while cut > limit - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut if line[cut] & 0xC0 != 0x80 else limit
