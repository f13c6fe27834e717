"""A mount's directory to the shared store: what the store has is not sent, what has not changed is not read.

Files are the unit, since caches of packages are made of many small files that never change, under names that say
nothing about when they came (npm's _cacache, Go's build cache): layers or archives cut by path would all have to be
written anew when a few files are added. So new chunks go into new packs, and packs stay as long as at least half of
what they hold is in use; the rest is written into new ones, and so are small packs when there are many.

Where another runner has saved since this one looked, what it saved is read, and both are put together (merge.py).
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci_plugins.errors import StateError
from ci_plugins.events import ActiveSpan
from ci_plugins.layer.entry import EntryType
from ci_plugins.mounts.current import Current, current
from ci_plugins.mounts.index import PACK_TYPE, Chunk, MountIndex, Node, Pack
from ci_plugins.mounts.known import Known, Summary
from ci_plugins.mounts.listing import Found, Limits, Signature, state_of, walk, within
from ci_plugins.mounts.merge import contents, made_of, merged, packs_for
from ci_plugins.mounts.pieces import pieces
from ci_plugins.mounts.side_by_side import side_by_side
from ci_plugins.mounts.store import ChunkStore
from ci_plugins.oci import Descriptor, Digest, sha256_digest

#: Uncompressed bytes of a pack, about: few requests, and little to write anew.
PACK = 16 << 20
#: Larger files are cut into pieces.
WHOLE = 4 << 20
#: Packs of less than a quarter of PACK are small; more than this many are joined.
_SMALL_PACKS = 8
#: An unchanged index is written again after so many seconds: it says when files were last used.
_REFRESH = 24 * 3600.0
#: Half of them wait for the network.
_THREADS = 4
_LEVEL = 3
#: how often an index is written where others write it too
_ATTEMPTS = 8
#: seconds after which another look is taken where others write too: about what one of them needs to read and write
_SETTLE = 0.3

_local = threading.local()


@dataclass(frozen=True, slots=True)
class Saved:
    """One mount after a build: `files` and `bytes` (uncompressed) the store has now, `sent` bytes of packs that it was
    sent. `result` is "unchanged", "saved", or why it was not."""

    id: str
    result: str
    files: int = 0
    bytes: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """What is to be saved: the slot's directory, and the id and name its index gets."""

    slot: Path
    id: str
    name: str


def save(mount: Mount, store: ChunkStore, limits: Limits, span: ActiveSpan, stop: threading.Event) -> Saved:
    """Raises CiPluginsError, OSError, Interrupted; the store then still has what it had before."""
    data = mount.slot / "data"
    listing, now = walk(data), time.time()
    summary = Summary.read(mount.slot)
    if summary is not None and summary.store == store.name:
        if summary.state == state_of(listing) and (summary.name != mount.name or now - summary.saved < _REFRESH):
            return Saved(mount.id, "unchanged")
        known = Known.read(mount.slot)
    else:
        known = None
    other = current(mount.name, store, known.summary.stamp if known else "", now - limits.age, stop)
    saving = _Saving(data, store, known, other, span)
    own = saving.run(mount.id, within(listing, limits, now), int(now), stop)
    index, stamp = _put(own, other, saving, mount, store, known, limits, stop)
    if index is not own and not contents(index).items() <= contents(own).items():
        stamp = ""  # files of others are not here: the next save has to see to it that they stay
    Known.of(store.name, mount.name, own, listing, stamp).write(mount.slot)
    files = [node for node in index.nodes if node.type is EntryType.FILE]
    return Saved(mount.id, "saved", len(files), sum(node.size for node in files), saving.sent)


def _put(
    own: MountIndex,
    other: Current,
    saving: _Saving,
    mount: Mount,
    store: ChunkStore,
    known: Known | None,
    limits: Limits,
    stop: threading.Event,
) -> tuple[MountIndex, str]:
    """Write the index, with all that others have written; returns what is there now, and its stamp."""
    base = known.index if known else None
    met = False
    for _ in range(_ATTEMPTS):
        index = own
        if other.index is not None:
            index = merged(own, made_of(other.index, saving.there(other.index.packs)), base, limits)
            if contents(index) == contents(other.index) and own.saved - other.index.saved < _REFRESH:
                return other.index, other.stamp or ""
        data = index.to_bytes()
        packs = [pack.descriptor for pack in index.packs]
        if store.put_index(mount.name, data, packs, replacing=other.stamp):
            stamp = sha256_digest(data)
            # Where one other was met, there may be more, who looked before this was written and write after it.
            if not met or (not stop.wait(random.uniform(0.5, 1.0) * _SETTLE) and store.stamp(mount.name) == stamp):
                return index, stamp
        met = True
        other = current(mount.name, store, "", own.saved - limits.age, stop)
    raise StateError(f"{store.name}: other runners have saved it {_ATTEMPTS} times meanwhile")


class _Saving:
    """One save: which chunks the store has, and which are on their way."""

    def __init__(self, data: Path, store: ChunkStore, known: Known | None, other: Current, span: ActiveSpan) -> None:
        self._data, self._store, self._known, self._other, self._span = data, store, known, other.index, span
        self._lock = threading.Lock()
        #: digests of chunks that are in a pack, or in one that is being filled
        self._have: set[str] = set()
        self._new: list[Pack] = []
        self._read = 0
        #: bytes of packs that the store did not have
        self.sent = 0

    def run(self, id: str, kept: Sequence[Found], now: int, stop: threading.Event) -> MountIndex:
        known = [*(self._other.packs if self._other else ()), *(self._known.index.packs if self._known else ())]
        packs = self._present({pack.descriptor.digest: pack for pack in known}.values())
        self._have = _digests(packs)
        files = [one for one in kept if one.type is EntryType.FILE and one.size]
        ready = {path: chunks for path, chunks in self._unchanged(files).items() if self._have.issuperset(chunks)}
        self._read_into(ready, files, stop)
        # Not where others' files are in them, which are not here to be written anew.
        if not self._other and (worn := _worn(packs, {digest for chunks in ready.values() for digest in chunks})):
            packs = [pack for pack in packs if pack.descriptor.digest not in worn]
            self._have = _digests((*packs, *self._new))
            ready = {path: chunks for path, chunks in ready.items() if self._have.issuperset(chunks)}
            self._read_into(ready, files, stop)
        nodes = _nodes(kept, ready)
        return MountIndex(id, now, packs_for(nodes, (*packs, *self._new)), nodes)

    def there(self, packs: Sequence[Pack]) -> set[str]:
        """The chunks of those of these packs that the store has."""
        return _digests(self._present(packs))

    def _present(self, packs: Iterable[Pack]) -> list[Pack]:
        packs = list(packs)
        gone = {pack.digest for pack in self._store.missing([pack.descriptor for pack in packs])} if packs else set()
        return [pack for pack in packs if pack.descriptor.digest not in gone]

    def _unchanged(self, files: Sequence[Found]) -> dict[str, tuple[str, ...]]:
        """The chunks of files that are as the index has them."""
        if self._known is None:
            return {}
        known = {node.path: node.chunks for node in self._known.index.nodes if node.type is EntryType.FILE}
        same = self._known.signatures
        return {one.path: known[one.path] for one in files if one.path in known and same.get(one.path) == one.signature}

    def _read_into(self, ready: dict[str, tuple[str, ...]], files: Sequence[Found], stop: threading.Event) -> None:
        """Add the files that are not in it."""
        todo = [one for one in files if one.path not in ready]
        for read in side_by_side(self._batch, list(_batches(todo)), _THREADS, stop):
            ready |= read

    # -- in the threads ------------------------------------------------------------------------------------------------

    def _batch(self, batch: Sequence[Found]) -> dict[str, tuple[str, ...]]:
        """Read files and send what the store lacks of them; path → digests of the chunks. Without those that changed
        or vanished meanwhile."""
        read: dict[str, tuple[str, ...]] = {}
        pending: list[tuple[Chunk, bytes]] = []
        size = 0
        for one in batch:
            chunks: list[Chunk] = []
            for data in _contents(self._data / one.path, one):
                chunk = Chunk(hashlib.sha256(data).hexdigest(), len(data))
                chunks.append(chunk)
                if self._claim(chunk):
                    pending.append((chunk, data))
                    size += chunk.size
                if size >= PACK:
                    self._send(pending)
                    pending, size = [], 0
            # otherwise it was written to meanwhile, and what was read may be no file that ever was
            if sum(chunk.size for chunk in chunks) == one.size and _signature(self._data / one.path) == one.signature:
                read[one.path] = tuple(chunk.digest for chunk in chunks)
        if pending:
            self._send(pending)
        return read

    def _claim(self, chunk: Chunk) -> bool:
        """Whether it is the caller who has to send it."""
        with self._lock:
            self._read += chunk.size
            self._span.progress(self._read)
            if chunk.digest in self._have:
                return False
            self._have.add(chunk.digest)
            return True

    def _send(self, pending: Sequence[tuple[Chunk, bytes]]) -> None:
        data = _compressor().compress(b"".join(data for _, data in pending))
        descriptor = Descriptor(PACK_TYPE, sha256_digest(data), len(data))
        new = self._store.put(descriptor, data)
        with self._lock:
            self._new.append(Pack(descriptor, tuple(chunk for chunk, _ in pending)))
            self.sent += len(data) if new else 0


def _digests(packs: Iterable[Pack]) -> set[str]:
    return {chunk.digest for pack in packs for chunk in pack.chunks}


def _worn(packs: Sequence[Pack], used: set[str]) -> set[Digest]:
    """Packs less than half of which is used, and small ones where there are many."""
    worn, small = set(), set()
    for pack in packs:
        live = sum(chunk.size for chunk in pack.chunks if chunk.digest in used)
        if live * 2 < pack.size:
            worn.add(pack.descriptor.digest)
        elif pack.size < PACK // 4:
            small.add(pack.descriptor.digest)
    return worn | small if len(small) > _SMALL_PACKS else worn


def _batches(files: Sequence[Found]) -> Iterator[list[Found]]:
    """Runs of about a pack; a file that fills a pack by itself is one."""
    batch: list[Found] = []
    size = 0
    for one in files:
        if batch and size + one.size > PACK:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.size
    if batch:
        yield batch


def _nodes(kept: Sequence[Found], chunks: Mapping[str, tuple[str, ...]]) -> tuple[Node, ...]:
    """What is saved: without files that could not be read, and their further names."""
    saved = []
    files: set[str] = set()
    for one in kept:
        if one.type is EntryType.FILE:
            if one.size and one.path not in chunks:
                continue
            files.add(one.path)
        elif one.type is EntryType.HARDLINK and one.link not in files:
            continue
        held = chunks.get(one.path, ()) if one.type is EntryType.FILE else ()
        saved.append(
            Node(one.path, one.type, one.mode, one.uid, one.gid, one.mtime_ns, one.used, one.size, one.link, held)
        )
    return tuple(saved)


def _contents(path: Path, found: Found) -> Iterator[bytes]:
    """A file whole, or in pieces; nothing where it is not there any more. Its access time stays."""
    try:
        descriptor = _open(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise StateError(f"cannot read {path}: {error.strerror}") from error
    try:
        if found.size <= WHOLE:
            yield _whole(descriptor, found.size)
        else:
            yield from pieces(lambda size: os.read(descriptor, size))
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only the owner may ask for that
        return os.open(path, flags)


def _whole(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)
    while 0 < len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
        data += more
    return data


def _signature(path: Path) -> Signature | None:
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _compressor() -> Any:
    """A context is megabytes of tables and belongs to one thread at a time."""
    import zstandard

    if not hasattr(_local, "context"):
        _local.context = zstandard.ZstdCompressor(level=_LEVEL)
    return _local.context
