"""One pass over a new layer: tar → sha256 (DiffID) → compress → sha256 (Digest) → spool, and perhaps a snapshot.

    caller's thread   reads files and writes the tar, cut into chunks of `CHUNK` bytes
    one thread        hashes the chunks
    a thread a core   compress chunks, each on its own
    one thread        in order: hashes what is compressed and appends it to the spool, where uploads follow
    one thread        unpacks the chunks, if a snapshot is wanted

What these threads do releases the interpreter lock. A chunk lives until the last of them is done with it, and counts
against the memory budget for so long.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from ci_plugins.events import ActiveSpan
from ci_plugins.layer.ahead import Ahead, Ready, checksum
from ci_plugins.layer.assemble import Assembly
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import CHUNK, Compression
from ci_plugins.layer.entry import EntryType, Item
from ci_plugins.layer.extract import unpack_tar
from ci_plugins.layer.groups import chunks, groups
from ci_plugins.layer.tar import END, Buffer, read_whole, write_members
from ci_plugins.layer.toc import KEPT, KEPT_LIMIT, Toc
from ci_plugins.layer.unpack import Unpacker
from ci_plugins.oci import Descriptor, Digest, parse_digest
from ci_plugins.storage.local import Spool

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer: its compressed blob, the digest and size (bytes) of its uncompressed tar, what it holds."""

    descriptor: Descriptor
    diff_id: Digest
    size: int
    toc: Toc


@dataclass(frozen=True, slots=True)
class Contents:
    """A layer before it is written: its items as they will stand in the archive, and what they make together."""

    items: Sequence[Item]
    toc: Toc


def contents_of(items: Iterable[Item]) -> Contents:
    """Nothing is read but the files that a table of contents keeps whole. Raises as `write_members` does for those."""
    assembly, kept, written = Assembly(), dict[str, bytes](), list[Item]()
    for item in items:
        entry = item.entry
        if entry.mtime_ns % _SECOND:
            # The archive has whole seconds.
            entry = replace(entry, mtime_ns=entry.mtime_ns // _SECOND * _SECOND)
            item = Item(entry, item.content)
        assembly.add(entry)
        if entry.path in KEPT and entry.type is EntryType.FILE and entry.size <= KEPT_LIMIT:
            data = read_whole(item) if entry.size else b""
            kept[entry.path] = data
            item = Item(entry, data)
        written.append(item)
    return Contents(written, assembly.toc(kept))


def stream_layer(
    contents: Contents,
    *,
    compression: Compression,
    spool: Spool,
    span: ActiveSpan,
    budget: MemoryBudget,
    extract_to: Path | None = None,
    ahead: Ahead | None = None,
) -> Layer:
    """Write a layer into the spool and commit it.

    What `ahead` has compressed already is not compressed again. With `extract_to`, an empty directory, the layer is
    unpacked there too; `Toc.implied_parents` says what is left to do then. No items make a valid, empty layer. What
    goes wrong (ContextChanged, DiskFull …) aborts the spool, so that its readers get the reason, and is raised once all
    threads have stopped.
    """
    try:
        with _Pipeline(compression, spool, span, budget, extract_to) as pipeline:
            descriptor, diff_id = pipeline.run(_pieces(contents.items, ahead))
        spool.commit(descriptor)
    except BaseException as error:
        spool.abort(error)
        raise
    span.set(entries=len(contents.toc.entries), media_type=descriptor.media_type, digest=descriptor.digest)
    return Layer(descriptor, diff_id, pipeline.size, contents.toc)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A piece of the tar on its way through the threads; done when all of `stages` are."""

    stages: tuple[Future[None], ...]

    def done(self) -> bool:
        return all(stage.done() for stage in self.stages)


class _Pipeline:
    """The threads of one stream. Leaving it stops them and gives back its memory, whatever happened."""

    def __init__(
        self,
        compression: Compression,
        spool: Spool,
        span: ActiveSpan,
        budget: MemoryBudget,
        extract_to: Path | None,
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        self._compression, self._spool, self._span, self._budget = compression, spool, span, budget
        self._hasher = ThreadPoolExecutor(1, "layer hash")
        self._compressors = ThreadPoolExecutor(cores, "layer compress")
        self._writer = ThreadPoolExecutor(1, "layer write")
        self._unpacking = None if extract_to is None else _Unpacking(extract_to)
        self._under_way: deque[_Chunk] = deque()
        #: enough that every core has a next chunk waiting
        self._most_under_way = 2 * cores + 2
        self._plain, self._compressed = hashlib.sha256(), hashlib.sha256()
        #: bytes of the tar so far
        self.size = 0
        self._compressed_size = 0
        self._tar_seconds = self._compress_seconds = 0.0
        self._clock = threading.Lock()

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._unpacking is not None:
            self._unpacking.stop()
        for executor in (self._compressors, self._hasher, self._writer):
            executor.shutdown(wait=True, cancel_futures=True)
        self._budget.release(CHUNK * len(self._under_way))
        self._under_way.clear()

    def run(self, chunks: Iterator[_Piece]) -> tuple[Descriptor, Digest]:
        """Push the whole archive through. Raises what any of the threads raises."""
        while piece := self._next(chunks):
            pieces = piece.pieces
            self.size += piece.size
            compressed = self._compressors.submit(self._compress, piece)
            stages = [self._hasher.submit(self._hash, pieces), self._writer.submit(self._write, compressed)]
            if self._unpacking is not None:
                stages.append(self._unpacking.feed(pieces))
            self._under_way.append(_Chunk(tuple(stages)))
            self._span.progress(self.size)
        while self._under_way:
            self._settle()
        if self._unpacking is not None:
            self._unpacking.finish()
        self._span.set(
            bytes=self.size,
            compressed_bytes=self._compressed_size,
            tar_seconds=round(self._tar_seconds, 6),
            compress_seconds=round(self._compress_seconds, 6),
        )
        digest = parse_digest("sha256:" + self._compressed.hexdigest())
        descriptor = Descriptor(self._compression.media_type, digest, self._compressed_size)
        return descriptor, parse_digest("sha256:" + self._plain.hexdigest())

    def _next(self, chunks: Iterator[_Piece]) -> _Piece | None:
        """The next chunk, its memory taken from the budget; None at the end."""
        while self._under_way and (self._under_way[0].done() or len(self._under_way) >= self._most_under_way):
            self._settle()
        while not self._budget.try_acquire(CHUNK):
            if not self._under_way:
                self._budget.acquire(CHUNK)
                break
            self._settle()
        piece: _Piece | None = None
        began = time.perf_counter()
        try:
            piece = next(chunks, None)
        finally:
            self._tar_seconds += time.perf_counter() - began
            if piece is None:
                self._budget.release(CHUNK)
        return piece

    def _settle(self) -> None:
        """Wait for the oldest chunk and give its memory back."""
        for stage in self._under_way[0].stages:
            stage.result()
        self._under_way.popleft()
        self._budget.release(CHUNK)

    # -- in the threads ------------------------------------------------------------------------------------------------

    def _hash(self, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            self._plain.update(piece)

    def _compress(self, piece: _Piece) -> Sequence[Buffer]:
        began = time.perf_counter()
        compressed = piece.compressed() or self._compression.compress_chunk(piece.pieces, piece.size)
        with self._clock:
            self._compress_seconds += time.perf_counter() - began
        return compressed

    def _write(self, compressed: Future[Sequence[Buffer]]) -> None:
        for piece in compressed.result():
            self._compressed.update(piece)
            self._compressed_size += len(piece)
            self._spool.write(piece)


@dataclass(frozen=True, slots=True)
class _Piece:
    """`CHUNK` bytes of the tar or fewer, and what `ahead` has made of them."""

    pieces: Sequence[Buffer]
    size: int
    ahead: Ahead | None = None
    ready: Ready | None = None

    def compressed(self) -> Sequence[Buffer]:
        """What was compressed ahead, if it is these bytes; else nothing."""
        if self.ahead is None or self.ready is None:
            return ()
        if self.ready.plain is None and checksum(self.pieces) != self.ready.checksum:
            return ()
        return (self.ahead.read(self.ready.compressed),)


def _pieces(items: Iterable[Item], ahead: Ahead | None) -> Iterator[_Piece]:
    for group in groups(items):
        ready = ahead.ready(group) if ahead else ()
        if ahead and ready and all(chunk.plain for chunk in ready):
            for chunk in ready:
                if chunk.plain:
                    yield _Piece([ahead.read(chunk.plain)], chunk.plain.length, ahead, chunk)
            continue
        for number, pieces in enumerate(chunks(write_members(group))):
            yield _Piece(pieces, sum(map(len, pieces)), ahead, ready[number] if number < len(ready) else None)
    yield _Piece([END], len(END))


class _Unpacking:
    """The thread that unpacks the chunks it is fed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fed: SimpleQueue[tuple[Sequence[Buffer], Future[None]] | None] = SimpleQueue()
        self._current: Future[None] | None = None
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layer unpack")
        self._thread.start()

    def feed(self, pieces: Sequence[Buffer]) -> Future[None]:
        """Done once the pieces are on disk; fails with what unpacking fails with."""
        done: Future[None] = Future()
        self._fed.put((pieces, done))
        return done

    def finish(self) -> None:
        """All is fed: wait for the end."""
        self.stop()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """No more is fed. In the middle of an archive, this makes unpacking fail, which nobody is told."""
        self._fed.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with Unpacker(self._root) as unpacker:
                unpack_tar(self._blocks(), unpacker)
        except BaseException as error:  # noqa: BLE001 (raised again by `finish` and by the futures)
            self._failure = error
            if self._current is not None:
                self._current.set_exception(error)
            while not self._ended and (item := self._fed.get()) is not None:
                item[1].set_exception(error)

    def _blocks(self) -> Iterator[bytes]:
        while (item := self._fed.get()) is not None:
            pieces, self._current = item
            for piece in pieces:
                yield bytes(piece)
            self._current.set_result(None)
            self._current = None
        self._ended = True
