"""Layers on this machine: tables of contents by DiffID, snapshots by ChainID.

    toc/<hex of DiffID>             a Toc's bytes
    snapshots/data/<random>/fs      an extracted layer, ready to be an overlay lower directory
    snapshots/data/<random>/lock    held while the directory is being filled or used
    snapshots/by-chain/<hex>        symlink to a complete `data/<random>`

A snapshot gets its name last, by an atomic symlink: what has a name is complete. Directories without a name and
without a living owner are left-overs of a killed build and removed when the store opens.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

from ci_plugins.errors import CorruptLayer, state_errors
from ci_plugins.layer.toc import Toc
from ci_plugins.oci import Digest, hex_of


class LayerCache:
    """TOCs and snapshots below a state directory. Thread safe, safe between processes."""

    def __init__(self, root: Path) -> None:
        self._tocs = root / "toc"
        self._data = root / "snapshots" / "data"
        self._chains = root / "snapshots" / "by-chain"
        self._loaded: dict[Digest, Toc] = {}
        self._lock = threading.Lock()
        self._open: list[NewSnapshot] = []
        with state_errors(root):
            for directory in (self._tocs, self._data, self._chains):
                directory.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()

    # -- tables of contents -----------------------------------------------------------------------------------------

    def toc(self, diff_id: Digest) -> Toc | None:
        """None if it is not known here; a damaged one counts as not known."""
        with self._lock:
            if known := self._loaded.get(diff_id):
                return known
        try:
            toc = Toc.from_bytes((self._tocs / hex_of(diff_id)).read_bytes())
        except (FileNotFoundError, CorruptLayer):
            return None
        with self._lock:
            return self._loaded.setdefault(diff_id, toc)

    def has_toc(self, diff_id: Digest) -> bool:
        return diff_id in self._loaded or (self._tocs / hex_of(diff_id)).exists()

    def put_toc(self, diff_id: Digest, toc: Toc) -> None:
        path = self._tocs / hex_of(diff_id)
        with self._lock:
            self._loaded[diff_id] = toc
        if path.exists():
            return
        temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
        with state_errors(path):
            temporary.write_bytes(toc.to_bytes())
            os.replace(temporary, path)

    # -- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self, chain: Digest) -> Path | None:
        """The directory of a complete snapshot."""
        link = self._chains / hex_of(chain)
        try:
            directory = self._data / os.readlink(link).rpartition("/")[2] / "fs"
        except FileNotFoundError:
            return None
        return directory if directory.is_dir() else None

    def new_snapshot(self) -> NewSnapshot:
        """An empty directory, this build's own until it is published or the cache is closed."""
        with state_errors(self._data):
            new = NewSnapshot(self._data, self._chains)
        with self._lock:
            self._open.append(new)
        return new

    def close(self) -> None:
        """Remove what was not published. Nothing may use a snapshot of this build any more."""
        with self._lock:
            opened, self._open = self._open, []
        for new in opened:
            new.discard()

    def _remove_abandoned(self) -> None:
        named = {os.readlink(link).rpartition("/")[2] for link in self._chains.iterdir()}
        for directory in self._data.iterdir():
            if directory.name not in named and _is_abandoned(directory):
                shutil.rmtree(directory, ignore_errors=True)


class NewSnapshot:
    """A directory being filled. It is usable at once (by the next step), and found by later builds once `publish`
    has given it its name. `discard` removes it, unless it was published."""

    def __init__(self, data: Path, chains: Path) -> None:
        self._directory = data / os.urandom(8).hex()
        self._chains = chains
        self._published = False
        self._discarded = False
        (self._directory / "fs").mkdir(parents=True)
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def path(self) -> Path:
        return self._directory / "fs"

    def publish(self, chain: Digest) -> None:
        """Name it. If another build was quicker, its snapshot keeps the name and this one stays until discarded."""
        with state_errors(self._chains):
            try:
                os.symlink(f"../data/{self._directory.name}", self._chains / hex_of(chain))
            except FileExistsError:
                if (self._chains / hex_of(chain) / "fs").is_dir():
                    return
                os.unlink(self._chains / hex_of(chain))  # it points to nothing: somebody removed its directory
                os.symlink(f"../data/{self._directory.name}", self._chains / hex_of(chain))
        self._published = True

    def discard(self) -> None:
        """Give up the lock, and the directory too if it has no name. Idempotent."""
        if self._discarded:
            return
        self._discarded = True
        if not self._published:
            shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


def _is_abandoned(directory: Path) -> bool:
    # A lock that can be taken has no living owner. The age covers the moment between creation and locking.
    if time.time() - directory.stat().st_mtime < 60:
        return False
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
