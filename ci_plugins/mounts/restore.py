"""A mount from the shared store into an empty directory.

Packs are fetched side by side; each is checked against its digest, decompressed and written to its files at once.
What cannot be fetched or is damaged is left out, with the files it belongs to: a cache may lack something.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ci_plugins.errors import CiPluginsError, state_errors
from ci_plugins.events import ActiveSpan
from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.index import MountIndex, Node, Pack
from ci_plugins.mounts.pieces import MOST
from ci_plugins.mounts.save import PACK
from ci_plugins.mounts.side_by_side import side_by_side
from ci_plugins.mounts.store import ChunkStore

#: why a pack was not fetched that may be fetched another time
OUT_OF_TIME = "there was no time left for it"
_THREADS = 4
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Restored:
    """`index` is what is there now; `lost` says, for each pack that could not be used, why."""

    index: MountIndex
    lost: tuple[str, ...]
    files: int
    bytes: int
    received: int


def restore(
    index: MountIndex,
    store: ChunkStore,
    root: Path,
    span: ActiveSpan,
    stop: threading.Event,
    seconds: float = math.inf,
) -> Restored:
    """Fill `root`, an empty directory. No pack is begun after so many seconds. Raises DiskFull, StateError,
    Interrupted: `root` is of no use then."""
    end = time.monotonic() + seconds
    tree = _Tree(index, root)
    with state_errors(root):
        tree.begin()
    needed = [pack for pack in index.packs if tree.needs(pack)]
    total = sum(pack.size for pack in needed)

    def fetch(pack: Pack) -> str:
        if time.monotonic() > end:
            return OUT_OF_TIME
        try:
            data = _decompressed(store.get(pack.descriptor), pack)
        except CiPluginsError as error:
            return error.message
        except ValueError as error:
            return str(error)
        with state_errors(root):
            span.progress(tree.write(pack, data), total)
        return ""

    reasons = side_by_side(fetch, needed, _THREADS, stop)
    lost = [pack for pack, reason in zip(needed, reasons, strict=True) if reason]
    with state_errors(root):
        nodes = tree.finish(lost)
    files = [node for node in nodes if node.type is EntryType.FILE]
    return Restored(
        replace(index, nodes=nodes),
        tuple(filter(None, reasons)),
        len(files),
        sum(node.size for node in files),
        sum(pack.descriptor.size for pack, reason in zip(needed, reasons, strict=True) if not reason),
    )


class _Tree:
    """The files on their way. Directories come first and symbolic links last: nothing is written through one."""

    def __init__(self, index: MountIndex, root: Path) -> None:
        self._nodes, self._root = index.nodes, str(root)
        self._own = os.geteuid(), os.getegid()
        self._lock = threading.Lock()
        self._written = 0
        sizes: dict[str, int] = {}
        #: chunk → the one pack it is taken from
        self._pack_of: dict[str, Pack] = {}
        for pack in index.packs:
            for chunk in pack.chunks:
                sizes[chunk.digest] = chunk.size
                self._pack_of.setdefault(chunk.digest, pack)
        #: chunk → (file, offset) where it belongs
        self._places: dict[str, list[tuple[Node, int]]] = {}
        for node in index.nodes:
            offset = 0
            for digest in node.chunks:
                self._places.setdefault(digest, []).append((node, offset))
                offset += sizes[digest]

    def needs(self, pack: Pack) -> bool:
        return any(self._pack_of[chunk.digest] is pack and chunk.digest in self._places for chunk in pack.chunks)

    def begin(self) -> None:
        """Directories, and files that no chunk or more than one makes."""
        for node in self._nodes:
            if node.type is EntryType.DIRECTORY and node.path:
                os.mkdir(self._at(node), 0o700)
            elif node.type is EntryType.FILE and len(node.chunks) != 1:
                descriptor = os.open(self._at(node), _NEW, 0o600)
                os.ftruncate(descriptor, node.size)
                os.close(descriptor)

    def write(self, pack: Pack, data: bytes) -> int:
        """Put a pack's chunks where they belong; returns how many bytes of all packs are there now."""
        view, start = memoryview(data), 0
        for chunk in pack.chunks:
            content, start = view[start : start + chunk.size], start + chunk.size
            if self._pack_of[chunk.digest] is not pack:
                continue
            for node, offset in self._places.get(chunk.digest, ()):
                if len(node.chunks) == 1:
                    descriptor = os.open(self._at(node), _NEW, node.mode & 0o777)
                else:
                    descriptor = os.open(self._at(node), _OLD)
                try:
                    _write(descriptor, content, offset)
                    if len(node.chunks) == 1:
                        self._dress(descriptor, node)
                finally:
                    os.close(descriptor)
        with self._lock:
            self._written += len(data)
            return self._written

    def finish(self, lost: Sequence[Pack]) -> tuple[Node, ...]:
        """Remove files that lack something, and do what comes last; returns what is there."""
        missing = {c.digest for pack in lost for c in pack.chunks if self._pack_of[c.digest] is pack}
        gone: set[str] = set()
        for node in self._nodes:
            path = self._at(node)
            if node.type is EntryType.FILE and not missing.isdisjoint(node.chunks):
                gone.add(node.path)
                if len(node.chunks) > 1:
                    os.unlink(path)
            elif node.type is EntryType.FILE and len(node.chunks) != 1:
                self._dress(path, node)
            elif node.type is EntryType.HARDLINK:
                if node.link in gone:
                    gone.add(node.path)
                else:
                    os.link(f"{self._root}/{node.link}", path, follow_symlinks=False)
        there = tuple(node for node in self._nodes if node.path not in gone)
        for node in there:
            if node.type is EntryType.SYMLINK:
                path = self._at(node)
                os.symlink(node.link, path)
                os.chown(path, node.uid, node.gid, follow_symlinks=False)
                os.utime(path, ns=_times(node), follow_symlinks=False)
        for node in reversed(there):
            if node.type is EntryType.DIRECTORY:
                self._dress(self._at(node), node)
        return there

    def _at(self, node: Node) -> str:
        return f"{self._root}/{node.path}" if node.path else self._root

    def _dress(self, where: int | str, node: Node) -> None:
        if (node.uid, node.gid) != self._own:
            os.chown(where, node.uid, node.gid)
        os.chmod(where, node.mode)
        os.utime(where, ns=_times(node))


def _times(node: Node) -> tuple[int, int]:
    return node.used * _SECOND, node.mtime_ns


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _decompressed(data: bytes, pack: Pack) -> bytes:
    """Raises ValueError for what is no such pack."""
    import zstandard

    try:
        if pack.size > PACK + MOST or zstandard.frame_content_size(data) != pack.size:
            raise ValueError(f"the pack {pack.descriptor.digest} does not hold what its index says")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"the pack {pack.descriptor.digest} cannot be decompressed: {error}") from error
