"""Compressing a layer before it is complete: while a RUN works, what it has finished writing is compressed already.

A thread of low priority walks the upper directory now and then. Groups (`groups.py`) none of whose files changed
lately are compressed into a temporary file. When the command has ended, `stream_layer` takes a group's compressed
pieces if every entry and every file's inode, size and times are still the same, and if the checksum of the bytes it
reads then equals that of the bytes compressed: writes through a memory mapping may leave the times alone. The layer is
the same, byte for byte, with and without this; only the time after the command's end is shorter.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.errors import CiPluginsError
from ci_plugins.layer.compress import Compression
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.entry import Entry, Item
from ci_plugins.layer.groups import chunks, groups
from ci_plugins.layer.tar import Buffer, write_members

#: seconds before the first walk, and at least between two
_PAUSE = 0.4
#: A walk may take this share of the time.
_SHARE = 0.2
#: nanoseconds a file must have been left alone
_SETTLED = 300_000_000
_LOW_PRIORITY = 10

#: (device, inode, size, mtime, ctime) of a file
Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Ready:
    """One compressed chunk: where it is in the temporary file, and the checksum of what was compressed."""

    offset: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class _Known:
    entries: tuple[Entry, ...]
    signatures: tuple[Signature, ...]
    ready: tuple[Ready, ...]


def checksum(pieces: Sequence[Buffer]) -> int:
    from isal import isal_zlib

    value = 0
    for piece in pieces:
        value = isal_zlib.crc32(piece, value)
    return value


class Ahead:
    """Works on `upper` while it is a context manager's block; answers after that, until `close`. `scratch` is where its
    temporary file is made."""

    def __init__(self, upper: Path, compression: Compression, scratch: Path) -> None:
        self._upper, self._compression = upper, compression
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by `close`)
        self._end = 0
        self._known: dict[str, _Known] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="layer ahead", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The command has ended: no more is begun."""
        self._stop.set()
        self._thread.join()
        if error is not None:
            self.close()

    def close(self) -> None:
        """Nothing is asked for any more."""
        self._file.close()

    def ready(self, group: Sequence[Item]) -> tuple[Ready, ...]:
        """The compressed chunks of a group that is still what it was; none otherwise."""
        known = self._known.get(group[0].entry.path)
        if known is None or known.entries != tuple(item.entry for item in group):
            return ()
        return known.ready if known.signatures == _signatures(group) else ()

    def read(self, ready: Ready) -> bytes:
        return os.pread(self._file.fileno(), ready.length, ready.offset)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
        pause = _PAUSE
        while not self._stop.wait(pause):
            began = time.perf_counter()
            # The command removes what was just looked at, or the disk is full: the layer can be written without this.
            with suppress(OSError, CiPluginsError):
                self._walk()
            pause = max(_PAUSE, (time.perf_counter() - began) / _SHARE)

    def _walk(self) -> None:
        for group in groups(diff_items(self._upper)):
            if self._stop.is_set():
                return
            signatures = _signatures(group)
            latest = max((max(signature[3:]) for signature in signatures), default=0)
            if signatures and latest < time.time_ns() - _SETTLED:
                self._compress(group, signatures)

    def _compress(self, group: list[Item], signatures: tuple[Signature, ...]) -> None:
        first, entries = group[0].entry.path, tuple(item.entry for item in group)
        known = self._known.get(first)
        if known is not None and (known.entries, known.signatures) == (entries, signatures):
            return
        ready: list[Ready] = []
        for pieces in chunks(write_members(group)):
            if self._stop.is_set():
                return
            data = b"".join(self._compression.compress_chunk(pieces, sum(map(len, pieces))))
            os.pwrite(self._file.fileno(), data, self._end)
            ready.append(Ready(self._end, len(data), checksum(pieces)))
            self._end += len(data)
        self._known[first] = _Known(entries, signatures, tuple(ready))


def _signatures(group: Sequence[Item]) -> tuple[Signature, ...]:
    signatures = []
    for item in group:
        if isinstance(item.content, str):
            status = os.lstat(item.content)
            signatures.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(signatures)
