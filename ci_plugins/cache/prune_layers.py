"""Layers on this machine that nothing needs any more: blobs, snapshots, tables of contents go with their steps.

What no step stands for (layers of base images, of steps that were built anew since) goes by its last use. A snapshot
that a build uses has a lock and stays; a table of contents that is missed is read from its layer again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.cache.layers import names_of, unused
from ci_plugins.cache.removal import Freed, remove_file, remove_tree
from ci_plugins.errors import state_errors
from ci_plugins.oci import Digest, parse_digest

#: Seconds after which a file that is written in one go has lost its writer, and a blob has got its record.
_WRITING = 3600.0
_HEX = 64


@dataclass(frozen=True, slots=True)
class Needed:
    """`kept` are digests (DiffIDs, or blobs') that records name; `forgotten` those that only such records named as are
    gone now; what is neither is needed if it was used at or after `since` (seconds since the epoch)."""

    kept: Collection[Digest]
    forgotten: Collection[Digest]
    since: float

    def __call__(self, digest: Digest | None, used: float) -> bool:
        return digest in self.kept or (digest not in self.forgotten and used >= self.since)


def prune_blobs(directory: Path, needed: Needed) -> Freed:
    """`needed` goes by the digests of blobs. One that is still being sent from where it was written stays, and so does
    one that may get its record in a moment."""
    freed, now = Freed(), time.time()
    with state_errors(directory):
        for path, used in _files(directory):
            digest = Digest(f"sha256:{path.name}")
            if needed(digest, used) or (digest not in needed.forgotten and used > now - _WRITING):
                continue
            if (size := _remove_unlocked(path)) is not None:
                freed += Freed(size, blobs=1)
    return freed


def prune_layers(state: Path, needed: Needed) -> tuple[Freed, set[Digest]]:
    """Snapshots and tables of contents; also the DiffIDs of the snapshots that are left. Raises StateError, where it
    cannot even look; what cannot be removed is told."""
    with state_errors(state):
        snapshots, left = _prune_snapshots(state / "snapshots", needed)
        return snapshots + _prune_tocs(state / "toc", needed, left), left


def _prune_snapshots(root: Path, needed: Needed) -> tuple[Freed, set[Digest]]:
    """Also the DiffIDs of those that are left."""
    freed, left = Freed(), set[Digest]()
    data, chains = root / "data", root / "by-chain"
    if not data.is_dir():
        return freed, left
    names = names_of(chains)
    for name in [name for name in names if not (data / name).is_dir()]:
        names.pop(name).unlink(missing_ok=True)  # of a directory that somebody has removed by hand
    with unused(data, [data / name for name in names if not _needed(data / name, needed)]) as free:
        # again: a build may have used it, and ended, before it was locked
        for directory in (one for one in free if not _needed(one, needed)):
            with suppress(FileNotFoundError):
                if names[directory.name].readlink().name == directory.name:  # else it names a newer one by now
                    names[directory.name].unlink()
            removed = remove_tree(directory)
            problems = (removed.problem,) if removed.problem else ()
            freed += Freed(removed.bytes, snapshots=1, problems=problems)
    for name in names_of(chains):
        left.update(filter(None, [_diff_id(data / name)]))
    return freed, left


def _prune_tocs(directory: Path, needed: Needed, snapshots: Collection[Digest]) -> Freed:
    """One whose snapshot is here stays: without it, the snapshot is of no use."""
    freed, writing = Freed(), time.time() - _WRITING
    for path, used in _files(directory):
        if len(path.name) == _HEX:
            digest = Digest(f"sha256:{path.name}")
            if digest not in snapshots and not needed(digest, used):
                freed += Freed(remove_file(path), tocs=1)
        elif used < writing:
            freed += Freed(remove_file(path))
    return freed


def _remove_unlocked(path: Path) -> int | None:
    """The bytes the disk got back; None if somebody has the file locked, who has written it, or it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return remove_file(path)
    except (BlockingIOError, FileNotFoundError):
        return None


def _needed(directory: Path, needed: Needed) -> bool:
    try:
        return needed(_diff_id(directory), directory.stat().st_mtime)
    except FileNotFoundError:
        return True  # somebody else has removed it: there is nothing to do


def _diff_id(directory: Path) -> Digest | None:
    """None for a snapshot that does not say which layer it is of."""
    try:
        return parse_digest((directory / "layer").read_text())
    except (OSError, ValueError):
        return None


def _files(directory: Path) -> Iterator[tuple[Path, float]]:
    """With the time of the last use: exact to a day, as access times are (mount(8), relatime)."""
    for name in os.listdir(directory) if directory.is_dir() else ():
        path = directory / name
        with suppress(FileNotFoundError):
            info = path.lstat()
            yield path, max(info.st_atime, info.st_mtime)
