"""Compressing a layer before it is complete: while a RUN works, what it has finished writing is compressed already.

A thread of low priority walks the upper directory now and then. Groups (`groups.py`) whose files nobody has changed
lately, nor has open for writing, are compressed into a temporary file; of groups of many small files it keeps the tar
too, so that they are not opened one by one again. When the command has ended, `items` walks once more, and a group is
taken as it was compressed if all of its items are still the ones that were. The layer is the same with and without
this, byte for byte where the codec is (compress.py); only the time after the command's end is shorter.

That a file is still what it was is told by its inode and the time of its last change (`diff.Seen`). Two things could
change bytes and leave that time alone: a second write within one tick of the kernel's clock, and a write through a
memory mapping whose page is dirty already. Against the first, only files left alone for a while are taken; against the
second, only those that nobody has open or mapped for writing, which a lease tells (fcntl(2), "Leases"): whoever comes
later and writes sets the time again. What is read from the files a second time has to have the same checksum besides.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import is_
from pathlib import Path

from ci_plugins.errors import CiPluginsError
from ci_plugins.layer.compress import Compression
from ci_plugins.layer.diff import Seen, diff_items
from ci_plugins.layer.entry import Item
from ci_plugins.layer.groups import chunks, groups
from ci_plugins.layer.tar import Buffer, write_members

#: seconds before the first walk, and at least between two
_PAUSE = 0.5
#: A walk may take this share of the time.
_SHARE = 0.1
#: nanoseconds a file must have been left alone: many ticks of the clock that file systems take times from
_SETTLED = 100_000_000
_LOW_PRIORITY = 10
#: So many small files cost more to open than their tar to keep.
_MANY = 48
#: Who changes again and again is left to the end.
_TIMES = 4
#: bytes of the disk that are left to the command
_ROOM = 1 << 30


@dataclass(frozen=True, slots=True)
class Extent:
    """Where something is in the temporary file; offset and length in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Ready:
    """One compressed chunk, the checksum of what was compressed, and where that was kept, if it was."""

    compressed: Extent
    checksum: int
    plain: Extent | None


@dataclass(frozen=True, slots=True)
class _Known:
    items: list[Item]
    ready: tuple[Ready, ...]
    times: int


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
        self._seen: dict[str, Seen] = {}
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

    def items(self) -> list[Item]:
        """What `diff_items` says of the upper directory, now that the command has ended."""
        return list(diff_items(self._upper, self._seen))

    def ready(self, group: Sequence[Item]) -> tuple[Ready, ...]:
        """The compressed chunks of a group of `items`, if it still is what it was; none otherwise."""
        known = self._known.get(group[0].entry.path)
        # The same objects, not equal ones: equal items may have other bytes.
        if known is None or len(known.items) != len(group) or not all(map(is_, known.items, group)):
            return ()
        return known.ready

    def read(self, extent: Extent) -> bytes:
        return os.pread(self._file.fileno(), extent.length, extent.offset)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
        pause = _PAUSE
        while not self._stop.wait(pause):
            # The command removes what was just looked at, or the disk is full: the layer can be written without this.
            with suppress(OSError, CiPluginsError):
                began = time.perf_counter()
                items = list(diff_items(self._upper, self._seen, settled=time.time_ns() - _SETTLED))
                pause = max(_PAUSE, (time.perf_counter() - began) / _SHARE)
                self._compress_settled(items)

    def _compress_settled(self, items: Sequence[Item]) -> None:
        for group in groups(items):
            if self._stop.is_set() or not self._room():
                return
            known = self._known.get(group[0].entry.path)
            times = known.times + 1 if known else 1
            if self.ready(group) or times > _TIMES:
                continue
            with suppress(OSError, CiPluginsError):  # one that is gone keeps nobody from the others
                if self._is_settled(group) and (ready := self._compress(group)):
                    self._known[group[0].entry.path] = _Known(group, ready, times)

    def _is_settled(self, group: Sequence[Item]) -> bool:
        for item in group:
            seen = self._seen.get(item.entry.path)
            if seen is None or not any(item is known for known in seen.items):
                return False
        return not any(_has_writers(item.content) for item in group if isinstance(item.content, str))

    def _room(self) -> bool:
        status = os.fstatvfs(self._file.fileno())
        return status.f_bavail * status.f_frsize > _ROOM

    def _compress(self, group: list[Item]) -> tuple[Ready, ...]:
        ready: list[Ready] = []
        for pieces in chunks(write_members(group)):
            if self._stop.is_set():
                return ()
            compressed = self._keep(self._compression.compress_chunk(pieces, sum(map(len, pieces))))
            plain = self._keep(pieces) if len(group) >= _MANY else None
            ready.append(Ready(compressed, checksum(pieces), plain))
        return tuple(ready)

    def _keep(self, pieces: Sequence[Buffer]) -> Extent:
        data, offset = b"".join(pieces), self._end
        if os.pwrite(self._file.fileno(), data, offset) != len(data):
            raise OSError("the disk is full")
        self._end += len(data)
        return Extent(offset, len(data))


def _has_writers(path: str) -> bool:
    """Whether somebody has a file open or mapped for writing, or that cannot be told here. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Who opens the file for writing in this moment waits until the lease is given back, and a signal tells of it:
        # SIGIO, which ends a process, unless another is asked for.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
