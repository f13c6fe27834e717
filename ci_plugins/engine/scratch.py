"""Working directories that last as long as a command, and what a killed builder left of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci_plugins.cache.locks import lock_directory
from ci_plugins.errors import state_errors

_NEW, _OWNED = "new-", "run-"


class Scratch:
    """Working directories below one directory, which is made. Several builders may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with state_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A new empty directory, private to this process, removed at the end. Locked as long as its owner lives."""
        with state_errors(self.path):
            made = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.path))
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # only now: an unlocked directory of this name would be taken for abandoned
            owned = made.rename(made.with_name(_OWNED + made.name.removeprefix(_NEW)))
        try:
            yield owned
        finally:
            with state_errors(owned):
                shutil.rmtree(owned)
            os.close(lock)

    @contextmanager
    def abandoned(self) -> Iterator[list[Path]]:
        """Directories whose owner was killed; removed at the end."""
        locks: dict[Path, int] = {}
        with state_errors(self.path):
            for directory in self.path.glob(f"{_OWNED}*"):
                lock = lock_directory(directory, fcntl.LOCK_EX)
                if lock is not None:
                    locks[directory] = lock
            yield list(locks)
            for directory, lock in locks.items():
                shutil.rmtree(directory)
                os.close(lock)
