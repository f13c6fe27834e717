"""The directories behind cache mounts, and who may use them at a time.

    mounts/<hex of MountSpec.key>/
        about.json        what it is, for people
        <n>/data/         what is mounted; there only once it is complete
        <n>/lock          held, shared or exclusively, while a step uses it; its time is that of the last use
        <n>/prepare       held while `data` is made
        <n>/new/          `data` in the making, left by a build that was killed
        <n>/known         what the shared store has of it (known.py)

Slot 0 is the mount that everybody means; others exist for `sharing=private` alone. Locks are flock(2)'s: they end
with the process, and hold between threads too, as every lease opens the files anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ci_plugins.errors import Interrupted, state_errors
from ci_plugins.mounts.spec import Sharing

#: seconds between two looks at a lock that somebody else has
_PAUSE = 0.03


class Slot:
    """One directory of a mount while it is leased."""

    def __init__(self, path: Path, number: int, descriptor: int) -> None:
        self.path, self.number = path, number
        self.data = path / "data"
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)

    def prepare(self, fill: Callable[[Path], None], stop: threading.Event) -> None:
        """Make `data` unless it is there; `fill` is given an empty directory of mode 0755. What it raises passes."""
        if self.data.is_dir():
            return
        with state_errors(self.path):
            descriptor = _opened(self.path / "prepare")
        try:
            _wait_for(lambda: _locks(descriptor, fcntl.LOCK_EX), stop)
            if self.data.is_dir():
                return
            new = self.path / "new"
            with state_errors(new):
                clear(new)
                new.mkdir()
                new.chmod(0o755)
            fill(new)
            with state_errors(self.data):
                new.rename(self.data)
        finally:
            os.close(descriptor)


def lease(directory: Path, sharing: Sharing, stop: threading.Event, waiting: Callable[[], None]) -> Slot:
    """Take a slot of a mount. As BuildKit does: `locked` waits for one that nobody uses, `private` takes another one
    then, and `shared` joins the others, in another slot only where somebody wanted the first one for himself.

    `waiting` is called once if it has to wait. Raises Interrupted when `stop` is set meanwhile, StateError.
    """
    found = _take(directory, sharing)
    if found is None:
        waiting()
        while found is None:
            _pause(stop)
            found = _take(directory, sharing)
    return found


def try_slot(directory: Path, how: int, number: int = 0) -> Slot | None:
    """A slot, if it can be locked (LOCK_SH, LOCK_EX) at once. Raises StateError."""
    path = directory / str(number)
    with state_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(path / "lock")
    if _locks(descriptor, how):
        return Slot(path, number, descriptor)
    os.close(descriptor)
    return None


def clear(directory: Path) -> None:
    """Remove it with all it holds, if it is there."""
    if directory.exists():
        shutil.rmtree(directory)


def _take(directory: Path, sharing: Sharing) -> Slot | None:
    how = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    number = 0
    while True:
        if number and sharing == "locked" and not (directory / str(number)).exists():
            return None
        if slot := try_slot(directory, how, number):
            os.utime(slot.path / "lock")
            return slot
        number += 1


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locks(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], stop: threading.Event) -> None:
    while not condition():
        _pause(stop)


def _pause(stop: threading.Event) -> None:
    if stop.wait(_PAUSE):
        raise Interrupted("interrupted while a cache mount was in use by another step")


def idle_since(slot: Path) -> float:
    """Seconds since a slot was last leased; 0 if that cannot be told."""
    try:
        return time.time() - (slot / "lock").stat().st_mtime
    except OSError:
        return 0.0
