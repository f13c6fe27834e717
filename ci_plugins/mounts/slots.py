"""The directories behind cache mounts, and who may use them at a time.

    mounts/<hex of MountSpec.key>/
        about.json        what it is, for people
        <n>/data/         what is mounted; there only once it is complete
        <n>/lock          held, shared or exclusively, while a step uses it; its time is that of the last use
        <n>/prepare       held while `data` is made
        <n>/new/          `data` in the making, left by a build that was killed
        <n>/known         what the shared store has of it (known.py)

Slot 0 is the mount that everybody means; others exist for `sharing=private` alone. Locks are flock(2)'s: they end
with the process, and hold between threads too, as every lease opens the files anew. A slot that nobody has used for
long is removed by who has it for himself: moved away first, so that a lock on what is gone is seen to be one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ci_plugins.cache.locks import is_there, lock_directory
from ci_plugins.cache.removal import Freed, remove_tree
from ci_plugins.errors import Interrupted, StateError, state_errors
from ci_plugins.mounts.spec import Sharing

#: seconds between two looks at a lock that somebody else has
_PAUSE = 0.03
#: what a slot is called while it is removed
_GONE = "gone-"


class Slot:
    """One directory of a mount while it is leased."""

    def __init__(self, path: Path, number: int, descriptor: int) -> None:
        self.path, self.number = path, number
        self.data = path / "data"
        self._descriptor = descriptor

    def release(self) -> None:
        os.close(self._descriptor)

    def prepare(self, fill: Callable[[Path], None], stop: threading.Event) -> bool:
        """Make `data` unless it is there; `fill` is given an empty directory of mode 0755. What it raises passes.
        Returns whether it was made."""
        if self.data.is_dir():
            return False
        with state_errors(self.path):
            descriptor = _opened(self.path / "prepare")
        try:
            _wait_for(lambda: _locks(descriptor, fcntl.LOCK_EX), stop)
            if self.data.is_dir():
                return False
            new = self.path / "new"
            with state_errors(new):
                clear(new)
                new.mkdir()
                new.chmod(0o755)
            fill(new)
            with state_errors(self.data):
                new.rename(self.data)
            return True
        finally:
            os.close(descriptor)

    def add(self, add: Callable[[Path], None]) -> None:
        """Add to `data`, unless somebody else does that now; `add` is given the path of a directory that it may make,
        on the same file system."""
        with state_errors(self.path):
            descriptor = _opened(self.path / "prepare")
        try:
            if _locks(descriptor, fcntl.LOCK_EX):
                add(self.path / "new")
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
        while True:
            try:
                path.mkdir(parents=True)
            except FileNotFoundError:
                continue  # what it is in is just being removed
            except FileExistsError:
                pass
            try:
                descriptor = _opened(path / "lock")
            except FileNotFoundError:
                continue  # it is just being removed itself
            if not _locks(descriptor, how):
                os.close(descriptor)
                return None
            if is_there(path / "lock", descriptor):
                return Slot(path, number, descriptor)
            os.close(descriptor)


def clear(directory: Path) -> None:
    """Remove it with all it holds, if it is there. Raises OSError."""
    if problem := remove_tree(directory).problem:
        raise OSError(errno.ENOTEMPTY, problem)


def remove_unused(root: Path, before: float) -> Freed:
    """Remove the mounts below `root` that no step has used since (seconds since the epoch). `mounts` counts those that
    had something in them. One that is in use stays, whatever its time says."""
    freed = Freed()
    for directory in _listed(root):
        for path in _listed(directory):
            try:
                if path.name.isdecimal() and 0 < _last_use(path) < before:
                    freed += _remove_slot(path, before)
                elif path.name.startswith(_GONE):  # by a removal that was killed
                    freed += _remove_moved(path)
            except (OSError, StateError) as error:
                freed += Freed(problems=(f"{path}: {error}",))
        if {path.name for path in _listed(directory)} <= {"about.json"}:
            with suppress(OSError):  # a step has just taken it again, or somebody else removes it too
                (directory / "about.json").unlink(missing_ok=True)
                directory.rmdir()
    return freed


def _listed(directory: Path) -> list[Path]:
    """What is in it; nothing if it is gone."""
    try:
        return [directory / name for name in os.listdir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_slot(path: Path, before: float) -> Freed:
    slot = try_slot(path.parent, fcntl.LOCK_EX, int(path.name))
    if slot is None:
        return Freed()
    try:
        if not 0 < _last_use(path) < before:  # a step has used it in the meantime
            return Freed()
        gone = path.with_name(f"{_GONE}{os.urandom(6).hex()}")
        held = slot.data.is_dir()
        path.rename(gone)
        return Freed(mounts=int(held)) + _remove_moved(gone)
    finally:
        slot.release()


def _remove_moved(path: Path) -> Freed:
    """Unless somebody else is at it."""
    lock = lock_directory(path, fcntl.LOCK_EX)
    if lock is None:
        return Freed()
    try:
        removed = remove_tree(path)
        return Freed(removed.bytes, problems=(removed.problem,) if removed.problem else ())
    finally:
        os.close(lock)


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


def _last_use(slot: Path) -> float:
    """When a slot was last leased, in seconds since the epoch; 0 if that cannot be told."""
    try:
        return (slot / "lock").stat().st_mtime
    except OSError:
        return 0.0
