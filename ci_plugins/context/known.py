"""Content digests of files that were hashed by an earlier build, for machines that keep their state.

A digest is trusted as git trusts its index: while the file's inode, size and both its times are what they were, and
the times were old enough when it was hashed that a later write must have changed them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ci_plugins.context.hash import FileToHash, HashedFile
from ci_plugins.oci import Digest

#: Files younger than this when they are hashed may change again within the resolution of their times; nanoseconds.
_YOUNG = 2_000_000_000
_VERSION = 1
#: Seconds to wait for another build that writes the file.
_PATIENCE = 5.0
#: What SQLite says of a file that is no database, a broken one, or one with other tables.
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)

#: (device, inode, size, mtime, ctime)
Signature = tuple[int, int, int, int, int]


class KnownDigests:
    """Digests by absolute path, in a file. What is wrong with the file costs time, never a build: it then knows
    nothing. Not thread safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new: dict[bytes, tuple[Signature, Digest]] = {}

    def lookup(self, root: Path, files: Sequence[FileToHash]) -> dict[str, Digest]:
        """Of files below `root`, those whose digest is known, by their path."""
        known = self._load(root) if files else {}
        found: dict[str, Digest] = {}
        if known:
            name_of = _namer(root)
            for file in files:
                entry = known.get(name_of(file))
                if entry is not None and entry[0] == _signature(file.path):
                    found[file.path] = entry[1]
        return found

    def note(self, root: Path, files: Sequence[FileToHash], hashed: Sequence[HashedFile], began_ns: int) -> None:
        """Of files below `root`, what was read of them; `save` keeps it. `began_ns` is the time before the first
        of them was read."""
        settled, name_of = began_ns - _YOUNG, _namer(root)
        for file, (digest, device, inode, ctime_ns) in zip(files, hashed, strict=True):
            if file.mtime_ns < settled and ctime_ns < settled:
                self._new[name_of(file)] = (device, inode, file.size, file.mtime_ns, ctime_ns), digest

    def save(self) -> None:
        """Raises OSError or sqlite3.Error."""
        if not self._new:
            return
        rows = [(path, *signature, digest) for path, (signature, digest) in self._new.items()]
        try:
            self._write(rows)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _DAMAGED:
                raise
            self._file.unlink(missing_ok=True)  # begun anew
            self._write(rows)
        self._new = {}

    def _write(self, rows: Sequence[tuple[bytes, int, int, int, int, int, str]]) -> None:
        database = sqlite3.connect(self._file, timeout=_PATIENCE)
        try:
            with database:
                # Also for what makes the table: every transaction waits for the disk. And IMMEDIATE: who reads first
                # and then wants to write is refused at once where another one writes.
                database.execute("BEGIN IMMEDIATE")
                if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                    database.execute("DROP TABLE IF EXISTS files")
                    database.execute(
                        "CREATE TABLE files (path BLOB PRIMARY KEY, device INTEGER, inode INTEGER, size INTEGER,"
                        " mtime INTEGER, ctime INTEGER, digest TEXT) WITHOUT ROWID"
                    )
                    database.execute(f"PRAGMA user_version = {_VERSION}")
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        finally:
            database.close()

    def _load(self, root: Path) -> Mapping[bytes, tuple[Signature, Digest]]:
        if not self._file.exists():
            return {}
        above = os.fsencode(os.path.abspath(root))
        try:
            database = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=1)
            try:
                if database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                    return {}
                # "/" and "0" are neighbours: all paths that begin with `above/`.
                rows = database.execute(
                    "SELECT * FROM files WHERE path >= ? AND path < ?", (above + b"/", above + b"0")
                )
                return {row[0]: (row[1:6], Digest(row[6])) for row in rows}
            finally:
                database.close()
        except sqlite3.Error:
            return {}


def _namer(root: Path) -> Callable[[FileToHash], bytes]:
    """Absolute paths of files below `root`, without asking for each where we are."""
    above, length = os.fsencode(os.path.abspath(root)), len(str(root))
    return lambda file: above + os.fsencode(file.path[length:])


def _signature(path: str) -> Signature | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
