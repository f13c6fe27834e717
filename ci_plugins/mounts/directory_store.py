"""Packs and indexes in a directory, of this machine or of a file server.

packs/<2 hex>/<hex>     complete packs; the time of the file is when it was last made sure of
indexes/<name>          `{"packs": […]}` on one line, then the index
new/<random>            files being written
lock                    held (flock(2)) while an index is compared with what its writer has read, and replaced
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ci_plugins.cache.removal import Freed, remove_file
from ci_plugins.errors import DigestMismatch, SizeMismatch, StateError, state_errors
from ci_plugins.oci import Descriptor, Digest, hex_of, sha256_digest

#: Packs that nobody names are left alone for so many seconds: an index that names them may be about to come.
_GRACE = 24 * 3600.0
#: seconds between two tries to get the lock, and after which it is done without
_PAUSE, _PATIENCE = 0.01, 10.0


class DirectoryChunks:
    """A `ChunkStore` below `root`. Files get their names when they are complete, and stay as they are: readers need no
    lock. Writers of indexes take one; on a file system that has none, they do without, and see afterwards whether they
    were alone."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        with state_errors(root):
            for name in ("packs", "indexes", "new"):
                (self._root / name).mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        return f"dir:{self._root}"

    def missing(self, packs: Sequence[Descriptor]) -> list[Descriptor]:
        return [pack for pack in packs if not self._has(pack)]

    def put(self, pack: Descriptor, data: bytes) -> bool:
        if self._has(pack):
            return False
        path = self._path(pack)
        with state_errors(path):
            path.parent.mkdir(exist_ok=True)
        self._write(path, data)
        return True

    def get(self, pack: Descriptor) -> bytes:
        path = self._path(pack)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StateError(f"cannot read {path}: {error.strerror}") from error
        if len(data) != pack.size:
            raise SizeMismatch(f"{path} has {len(data)} bytes instead of {pack.size}")
        if hashlib.sha256(data).hexdigest() != hex_of(pack.digest):
            path.unlink(missing_ok=True)  # so that it is saved again
            raise DigestMismatch(f"{path} was damaged", remedy="It is removed, and saved again by the next build.")
        return data

    def index(self, name: str) -> bytes | None:
        path = self._root / "indexes" / name
        try:
            return path.read_bytes().partition(b"\n")[2]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {path}: {error.strerror}") from error

    def stamp(self, name: str) -> Digest | None:
        data = self.index(name)
        return None if data is None else sha256_digest(data)

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor], *, replacing: Digest | None) -> bool:
        head = json.dumps({"packs": [hex_of(pack.digest) for pack in packs]}).encode()
        with self._locked() as alone:
            if self.stamp(name) != replacing:
                return False
            if gone := self.missing(packs):
                raise StateError(f"{self.name} has lost {len(gone)} of {len(packs)} packs")
            self._write(self._root / "indexes" / name, head + b"\n" + data)
            return alone or self.stamp(name) == sha256_digest(data)

    def prune(self, before: float) -> Freed:
        freed, named = Freed(), set[str]()
        with state_errors(self._root), self._locked():
            for path, written in _dated((self._root / "indexes").iterdir()):
                packs = _packs_of(path)
                if packs is None or written < before:
                    freed += Freed(remove_file(path), mounts=1)
                else:
                    named |= packs
            abandoned = time.time() - _GRACE
            for path, written in _dated((*(self._root / "packs").glob("*/*"), *(self._root / "new").iterdir())):
                if path.name not in named and written < abandoned:
                    freed += Freed(remove_file(path))
        return freed

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether nobody else writes an index until the end."""
        with state_errors(self._root):
            descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def _has(self, pack: Descriptor) -> bool:
        path = self._path(pack)
        try:
            if path.stat().st_size != pack.size:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def _path(self, pack: Descriptor) -> Path:
        digits = hex_of(pack.digest)
        return self._root / "packs" / digits[:2] / digits

    def _write(self, path: Path, data: bytes) -> None:
        new = self._root / "new" / os.urandom(12).hex()
        with state_errors(path):
            try:
                with new.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except OSError:
                new.unlink(missing_ok=True)
                raise


def _lock(descriptor: int) -> bool:
    """False on a file system without locks, and where somebody has had it for long: he may not live any more, on a
    machine far away."""
    given_up = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > given_up:
                return False
            time.sleep(_PAUSE)
        except OSError:
            return False
        else:
            return True


def _dated(paths: Iterable[Path]) -> Iterator[tuple[Path, float]]:
    """With the time a file was written; without those that have got their name, or have been removed, meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.stat().st_mtime


def _packs_of(index: Path) -> set[str] | None:
    """The packs an index names, none of one that is gone; None for what is no index. Raises OSError."""
    try:
        with index.open("rb") as file:
            return set(json.loads(file.readline())["packs"])
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        return None
