"""Packs and indexes in a directory, of this machine or of a file server.

packs/<2 hex>/<hex>     complete packs; the time of the file is when it was last made sure of
indexes/<name>          `{"packs": […]}` on one line, then the index
new/<random>            files being written
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ci_plugins.errors import DigestMismatch, SizeMismatch, StateError, state_errors
from ci_plugins.oci import Descriptor, hex_of

#: Packs that nobody names are left alone for so many seconds: an index that names them may be about to come.
_GRACE = 24 * 3600.0


class DirectoryChunks:
    """A `ChunkStore` below `root`. Nothing is locked, so it works on network file systems too: files get their names
    when they are complete, and stay as they are."""

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

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor]) -> None:
        if gone := self.missing(packs):
            raise StateError(f"{self.name} has lost {len(gone)} of {len(packs)} packs")
        head = json.dumps({"packs": [hex_of(pack.digest) for pack in packs]}).encode()
        self._write(self._root / "indexes" / name, head + b"\n" + data)

    def prune(self, before: float) -> int:
        removed, named = 0, set()
        with state_errors(self._root):
            for path in (self._root / "indexes").iterdir():
                if path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)
                    removed += 1
                else:
                    named |= set(json.loads(path.read_bytes().partition(b"\n")[0])["packs"])
            abandoned = time.time() - _GRACE
            for path in (*(self._root / "packs").glob("*/*"), *(self._root / "new").iterdir()):
                if path.name not in named and path.stat().st_mtime < abandoned:
                    path.unlink(missing_ok=True)
        return removed

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
