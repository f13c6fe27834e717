"""Layers on this machine: tables of contents by DiffID, snapshots by ChainID.

    toc/<hex of DiffID>             a Toc's bytes
    snapshots/data/<random>/fs      an extracted layer, ready to be an overlay lower directory
    snapshots/data/<random>/lock    held while the directory is being filled or used
    snapshots/by-chain/<hex>        symlink to a complete `data/<random>`

A snapshot gets its name last, by an atomic symlink: what has a name is complete. Directories without a name and
without a living owner are left-overs of a killed build and removed when the store opens. The directory `data` itself
is locked while a snapshot is made, or left-overs are looked for: no new one is taken for abandoned.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ci_plugins.errors import CorruptLayer, state_errors
from ci_plugins.layer.toc import MEDIA_TYPE, Toc
from ci_plugins.oci import Descriptor, Digest, hex_of, sha256_digest


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
        """None if it is not known here; one that is damaged or cannot be read counts as not known."""
        with self._lock:
            if known := self._loaded.get(diff_id):
                return known
        try:
            toc = Toc.from_bytes((self._tocs / hex_of(diff_id)).read_bytes())
        except (OSError, CorruptLayer):
            return None
        with self._lock:
            return self._loaded.setdefault(diff_id, toc)

    def put_toc(self, diff_id: Digest, toc: Toc, encoded: bytes = b"") -> Descriptor:
        """Keep it; returns the blob it is in a shared store. `encoded`: its bytes, if they were made already."""
        data = encoded or toc.to_bytes()
        path = self._tocs / hex_of(diff_id)
        with self._lock:
            self._loaded[diff_id] = toc
        temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
        with state_errors(path):
            temporary.write_bytes(data)
            os.replace(temporary, path)
        return Descriptor(MEDIA_TYPE, sha256_digest(data), len(data))

    def toc_bytes(self, diff_id: Digest) -> bytes | None:
        """As it was kept, for a shared store; None if it is not known here."""
        try:
            return (self._tocs / hex_of(diff_id)).read_bytes()
        except OSError:
            return None

    # -- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self, chain: Digest) -> Path | None:
        """The directory of a complete snapshot."""
        link = self._chains / hex_of(chain)
        try:
            directory = self._data / os.readlink(link).rpartition("/")[2] / "fs"
        except OSError:
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
        named = self._named()
        suspects = [directory for directory in self._data.iterdir() if directory.name not in named]
        if not suspects:
            return
        with _locked(self._data, fcntl.LOCK_EX):
            abandoned = [(directory, lock) for directory in suspects if (lock := _try_lock(directory)) is not None]
        # Again, now that nobody else can name them: an owner may have done so and ended since.
        named = self._named()
        for directory, lock in abandoned:
            if directory.name not in named:
                shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def _named(self) -> set[str]:
        names = set()
        for link in self._chains.iterdir():
            with suppress(OSError):  # gone meanwhile, or not a link: then it names nothing
                names.add(os.readlink(link).rpartition("/")[2])
        return names


class NewSnapshot:
    """A directory being filled. It is usable at once (by the next step), and found by later builds once `publish`
    has given it its name. `discard` removes it, unless it was published."""

    def __init__(self, data: Path, chains: Path) -> None:
        self._directory = data / os.urandom(8).hex()
        self._chains = chains
        self._published = False
        self._discarded = False
        with _locked(data, fcntl.LOCK_SH):
            (self._directory / "fs").mkdir(parents=True)
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    @property
    def path(self) -> Path:
        return self._directory / "fs"

    def publish(self, chain: Digest, toc: Toc) -> None:
        """Name it. If another build was quicker, its snapshot keeps the name and this one stays until discarded; one
        that does not hold what `toc` says loses it."""
        name, target = self._chains / hex_of(chain), f"../data/{self._directory.name}"
        with state_errors(self._chains):
            try:
                os.symlink(target, name)
            except FileExistsError:
                if is_whole(name / "fs", toc):
                    return
                temporary = self._chains.parent / f"{self._directory.name}.link"  # read once it is in its place
                os.symlink(target, temporary)
                os.replace(temporary, name)
        self._published = True

    def discard(self) -> None:
        """Give up the lock, and the directory too if it has no name. Idempotent."""
        if self._discarded:
            return
        self._discarded = True
        if not self._published:
            shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _try_lock(directory: Path) -> int | None:
    """The lock of a snapshot nobody owns; None if somebody does, or it is gone."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_whole(snapshot: Path, toc: Toc) -> bool:
    """Whether a snapshot has all that its layer puts into the root directory: finds one that is gone or was emptied,
    at the cost of one look."""
    try:
        names = set(os.listdir(snapshot))
    except OSError:
        return False
    return {entry.path.partition("/")[0] for entry in toc.entries} - {""} <= names
