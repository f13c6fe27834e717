"""Layers on this machine: tables of contents by DiffID, snapshots by ChainID.

    toc/<hex of DiffID>             a Toc's bytes
    snapshots/data/<random>/        its time is that of the last use; locked, shared, by who fills or uses it,
                                    exclusively by who removes it
        fs                          an extracted layer, ready to be an overlay lower directory
        layer                       the DiffID
    snapshots/by-chain/<hex>        symlink to a complete `data/<random>`

A snapshot gets its name last, by an atomic symlink: what has a name is complete; and it loses it first. Directories
without a name and without a living owner are left-overs of a killed build and removed when the store opens. The
directory `data` itself is locked while a snapshot is made, or what nobody uses is looked for: no new one is taken for
abandoned.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ci_plugins.cache.locks import lock_directory
from ci_plugins.cache.removal import Freed, remove_tree
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
        #: locks on snapshots in use, by the names of their directories
        self._used: dict[str, int] = {}
        with state_errors(root):
            for directory in (self._tocs, self._data, self._chains):
                directory.mkdir(parents=True, exist_ok=True)
            #: what a build that was killed had left
            self.abandoned = self._remove_abandoned()

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
        """The directory of a complete snapshot. It stays there until this cache is closed."""
        while (name := self._name(chain)) is not None:
            with self._lock:
                if name in self._used:
                    break
                if (lock := lock_directory(self._data / name, fcntl.LOCK_SH)) is None:
                    return None  # somebody is removing it
                if self._name(chain) == name:
                    self._used[name] = lock
                    with suppress(OSError):  # not ours to write: then it is prune that cannot know
                        os.utime(self._data / name)
                    break
                os.close(lock)  # it was removed, or replaced, before it was ours
        directory = self._data / name / "fs" if name else None
        return directory if directory and directory.is_dir() else None

    def has_snapshot(self, chain: Digest) -> bool:
        """Whether there is one now; it is neither used nor kept."""
        name = self._name(chain)
        return name is not None and (self._data / name / "fs").is_dir()

    def new_snapshot(self) -> NewSnapshot:
        """An empty directory, this build's own until it is published or the cache is closed."""
        with state_errors(self._data):
            new = NewSnapshot(self._data, self._chains, self._diff_id)
        with self._lock:
            self._open.append(new)
        return new

    def close(self) -> None:
        """Remove what was not published. Nothing may use a snapshot of this build any more."""
        with self._lock:
            opened, self._open = self._open, []
            used, self._used = self._used, {}
        for new in opened:
            new.discard()
        for lock in used.values():
            os.close(lock)

    def _name(self, chain: Digest) -> str | None:
        try:
            return os.readlink(self._chains / hex_of(chain)).rpartition("/")[2]
        except OSError:
            return None

    def _diff_id(self, toc: Toc) -> Digest | None:
        """The layer whose table of contents this very one is: it was put before the snapshot is published."""
        with self._lock:
            return next((diff_id for diff_id, known in self._loaded.items() if known is toc), None)

    def _remove_abandoned(self) -> Freed:
        named = set(names_of(self._chains))
        suspects = [directory for directory in self._data.iterdir() if directory.name not in named]
        if not suspects:
            return Freed()
        freed = Freed()
        with unused(self._data, suspects) as abandoned:
            # Again, now that nobody else can name them: an owner may have done so and ended since.
            named = set(names_of(self._chains))
            for directory in abandoned:
                if directory.name not in named:
                    removed = remove_tree(directory)
                    freed += Freed(removed.bytes, problems=(removed.problem,) if removed.problem else ())
        return freed


class NewSnapshot:
    """A directory being filled. It is usable at once (by the next step), and found by later builds once `publish`
    has given it its name. `discard` removes it, unless it was published."""

    def __init__(self, data: Path, chains: Path, diff_id: Callable[[Toc], Digest | None]) -> None:
        self._directory = data / os.urandom(8).hex()
        self._chains, self._diff_id = chains, diff_id
        self._published = False
        self._discarded = False
        with _locked(data, fcntl.LOCK_SH):
            (self._directory / "fs").mkdir(parents=True)
            self._lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    @property
    def path(self) -> Path:
        return self._directory / "fs"

    def publish(self, chain: Digest, toc: Toc) -> None:
        """Name it. If another build was quicker, its snapshot keeps the name and this one stays until discarded; one
        that does not hold what `toc` says loses it."""
        name, target = self._chains / hex_of(chain), f"../data/{self._directory.name}"
        with state_errors(self._chains):
            if diff_id := self._diff_id(toc):
                (self._directory / "layer").write_text(diff_id)
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
            remove_tree(self._directory)
        os.close(self._lock)


def names_of(chains: Path) -> dict[str, Path]:
    """The directories that have a name, with the symlink that is it."""
    names = {}
    for link in chains.iterdir():
        with suppress(OSError):  # gone meanwhile, or not a link: then it names nothing
            names[os.readlink(link).rpartition("/")[2]] = link
    return names


@contextmanager
def unused(data: Path, directories: Iterable[Path]) -> Iterator[list[Path]]:
    """Those of these directories below `data` that nobody fills or uses; nobody can begin to until the end."""
    with _locked(data, fcntl.LOCK_EX):
        locks = {path: lock for path in directories if (lock := lock_directory(path, fcntl.LOCK_EX)) is not None}
    try:
        yield list(locks)
    finally:
        for lock in locks.values():
            os.close(lock)


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def is_whole(snapshot: Path, toc: Toc) -> bool:
    """Whether a snapshot has all that its layer puts into the root directory: finds one that is gone or was emptied,
    at the cost of one look."""
    try:
        names = set(os.listdir(snapshot))
    except OSError:
        return False
    return {entry.path.partition("/")[0] for entry in toc.entries} - {""} <= names
