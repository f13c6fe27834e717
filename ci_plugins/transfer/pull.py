"""Pull: layers that exist somewhere become a table of contents, a local blob or a snapshot, each only when asked for.

One stream a layer: download → verify → local store, and on the way decompress → extract; several layers at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ci_plugins.cache.layers import LayerCache, NewSnapshot, is_whole
from ci_plugins.cache.record import RecordedLayer
from ci_plugins.errors import CorruptLayer, DigestMismatch, ImageNotFound, Interrupted, VerificationError
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.adopt import adopt_parents, copy_up_links
from ci_plugins.layer.extract import Extracted, digest_layer, extract_layer, read_layer
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree
from ci_plugins.oci import Descriptor, Digest, Reference, chain_id, hex_of
from ci_plugins.storage.blob import BlobSource, ImageOrigin
from ci_plugins.storage.local import LocalStore
from ci_plugins.transfer.stored import BlobLost, StoredBlob

T = TypeVar("T")


#: Asks the shared store for tables of contents: (blob, repositories that may hold it) → what it has, by digest.
TocSource = Callable[[Sequence[tuple[Descriptor, Sequence[str]]]], Mapping[Digest, bytes]]


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer that was written before, on its parents. `origin` is a repository that has its blob, None if only this
    machine can have it; `toc_repositories` may have that of its table of contents."""

    layer: RecordedLayer
    parent: StoredLayer | None
    origin: Reference | None
    toc_repositories: tuple[str, ...]
    #: the ChainID of the layer on its parents
    chain: Digest

    @property
    def descriptor(self) -> Descriptor:
        return self.layer.descriptor

    @property
    def diff_id(self) -> Digest:
        return self.layer.diff_id

    def with_parents(self) -> tuple[StoredLayer, ...]:
        """The whole chain, lowest first."""
        return (*(self.parent.with_parents() if self.parent else ()), self)


def stored_layers(
    layers: Sequence[RecordedLayer],
    origin: Reference | None,
    toc_repositories: tuple[str, ...],
    parent: StoredLayer | None = None,
) -> tuple[StoredLayer, ...]:
    """Layers, lowest first, as a chain on `parent`."""
    chain: list[StoredLayer] = []
    for layer in layers:
        chain_so_far = chain_id(parent.chain if parent else None, layer.diff_id)
        parent = StoredLayer(layer, parent, origin, toc_repositories, chain_so_far)
        chain.append(parent)
    return tuple(chain)


class LayerFetcher:
    """Fetches each layer at most once, whoever asks. Thread safe; the methods wait. `stop` ends all at the next
    block."""

    def __init__(
        self,
        store: LocalStore,
        layers: LayerCache,
        origin: ImageOrigin,
        recorder: Recorder,
        pool: Executor,
        parent: ActiveSpan,
        stop: threading.Event,
        tocs: TocSource,
    ) -> None:
        self._store, self._layers, self._origin, self._shared_tocs = store, layers, origin, tocs
        self._recorder, self._pool, self._parent, self._stop = recorder, pool, parent, stop
        self._lock = threading.Lock()
        self._blob_locks: dict[Digest, threading.Lock] = {}
        self._snapshots: dict[Digest, Future[Path]] = {}
        self._tocs: dict[Digest, Future[Toc]] = {}

    def blob(self, layer: StoredLayer) -> BlobSource:
        """The compressed blob in the local store, downloaded if it is not there."""
        with self._blob_lock(layer):
            if not self._store.has(layer.descriptor):
                for _ in self._download(layer):
                    pass
        return StoredBlob(self._store, layer.descriptor)

    def start_snapshots(self, layers: Sequence[StoredLayer]) -> None:
        """Begin to extract."""
        for layer in layers:
            self._once(self._snapshots, layer.chain, self._extract, layer)

    def start_tocs(self, layers: Sequence[StoredLayer]) -> None:
        """Begin to find out what they hold: from the shared store, in one go, or else from the layers themselves."""
        with self._lock:
            wanted = [one for one in layers if one.diff_id not in self._tocs and not self._layers.toc(one.diff_id)]
            if not wanted:
                return
            answer = self._pool.submit(self._ask, wanted)
            for layer in wanted:
                self._tocs[layer.diff_id] = self._pool.submit(self._toc_of, layer, answer)

    def snapshot(self, layer: StoredLayer) -> Path:
        self.start_snapshots([layer])
        return self._snapshots[layer.chain].result()

    def toc(self, layer: StoredLayer) -> Toc:
        if known := self._layers.toc(layer.diff_id):
            return known
        if extracting := self._snapshots.get(layer.chain):
            extracting.result()
        self.start_tocs([layer])
        return self._layers.toc(layer.diff_id) or self._tocs[layer.diff_id].result()

    def contents(self, layer: StoredLayer) -> tuple[Toc, Mapping[str, Digest]]:
        """What it holds, and the sha256 of every file: read in one pass, nothing is extracted."""
        return self._read(layer, self._contents_from)

    def _contents_from(self, layer: StoredLayer, blocks: Iterator[bytes]) -> tuple[Toc, Mapping[str, Digest]]:
        with self._recorder.span("extract", f"{_label(layer)} (digests only)", self._parent) as span:
            extracted, digests = digest_layer(blocks, layer.descriptor.media_type, span=span)
        self._check(layer, extracted, blocks)
        self._layers.put_toc(layer.diff_id, extracted.toc)
        return extracted.toc, digests

    def _once(
        self, futures: dict[Digest, Future[T]], key: Digest, work: Callable[[StoredLayer], T], layer: StoredLayer
    ) -> None:
        with self._lock:
            if key not in futures:
                futures[key] = self._pool.submit(work, layer)

    # -- one layer --------------------------------------------------------------------------------------------------

    def _extract(self, layer: StoredLayer) -> Path:
        toc, known = self._layers.toc(layer.diff_id), self._layers.snapshot(layer.chain)
        if known and toc:
            if is_whole(known, toc):
                return known
            self._recorder.warn(f"the snapshot {known} was damaged and is made anew")
        new, extracted = self._read(layer, self._extract_from)
        self._layers.put_toc(layer.diff_id, extracted.toc)
        # Not before the blob is free for others: a parent may be the same blob.
        self._take_from_parents(layer, extracted, new.path)
        new.publish(layer.chain, extracted.toc)
        return new.path

    def _extract_from(self, layer: StoredLayer, blocks: Iterator[bytes]) -> tuple[NewSnapshot, Extracted]:
        new = self._layers.new_snapshot()
        with self._recorder.span("extract", _label(layer), self._parent) as span:
            extracted = extract_layer(blocks, layer.descriptor.media_type, new.path, span=span)
            self._check(layer, extracted, blocks)
        return new, extracted

    def _take_from_parents(self, layer: StoredLayer, extracted: Extracted, root: Path) -> None:
        """Modes of directories the layer only implies, and files of lower layers it has hard links to.

        Nothing here waits for other work of the pool, which may stand behind this one.
        """
        if layer.parent is None or not (extracted.implied or extracted.missing_links):
            return
        below = layer.parent.with_parents()
        tree = LayerTree([self._toc(parent) for parent in below])
        made = copy_up_links(root, extracted.missing_links, lambda path: self._file_below(below, tree, path))
        adopt_parents(root, (*extracted.implied, *made), tree.entry)

    def _file_below(self, below: Sequence[StoredLayer], tree: LayerTree, path: str) -> Path | None:
        found = tree.lookup(path)
        if found is None:
            return None
        snapshot = self._layers.snapshot(below[found.layer].chain) or self._extract(below[found.layer])
        return snapshot / found.first_name

    def _ask(self, layers: Sequence[StoredLayer]) -> Mapping[Digest, bytes]:
        wanted = [(one.layer.toc, one.toc_repositories) for one in layers if one.layer.toc]
        return self._shared_tocs(wanted) if wanted else {}

    def _toc_of(self, layer: StoredLayer, answer: Future[Mapping[Digest, bytes]]) -> Toc:
        if layer.layer.toc and (data := answer.result().get(layer.layer.toc.digest)):
            with suppress(CorruptLayer):
                toc = Toc.from_bytes(data)
                self._layers.put_toc(layer.diff_id, toc, data)
                return toc
            self._recorder.warn(f"the stored table of contents of layer {layer.descriptor.digest} is damaged")
        return self._toc(layer)

    def _toc(self, layer: StoredLayer) -> Toc:
        return self._layers.toc(layer.diff_id) or self._read(layer, self._toc_from)

    def _toc_from(self, layer: StoredLayer, blocks: Iterator[bytes]) -> Toc:
        with self._recorder.span("extract", f"{_label(layer)} (contents only)", self._parent) as span:
            extracted = read_layer(blocks, layer.descriptor.media_type, span=span)
        self._check(layer, extracted, blocks)
        self._layers.put_toc(layer.diff_id, extracted.toc)
        return extracted.toc

    def _read(self, layer: StoredLayer, work: Callable[[StoredLayer, Iterator[bytes]], T]) -> T:
        """Read from the local store, else while downloading. A local blob that turns out damaged is replaced."""
        with self._blob_lock(layer):
            if self._store.has(layer.descriptor):
                try:
                    return work(layer, self._until_stopped(self._store.source(layer.descriptor).blocks()))
                except VerificationError as error:
                    self._store.remove(layer.descriptor.digest)
                    self._recorder.warn(f"a blob in the state directory was damaged and is removed: {error}")
            try:
                return work(layer, self._download(layer))
            except CorruptLayer:
                # What does not unpack is seldom what was asked for: its digest says that better, or it was an accident.
                for _ in self._download(layer):
                    pass
            return work(layer, self._store.source(layer.descriptor).blocks())

    def _check(self, layer: StoredLayer, extracted: Extracted, blocks: Iterator[bytes]) -> None:
        for _ in blocks:  # digest and size are judged at the very end, which the archive's own end may precede
            pass
        if extracted.diff_id != layer.diff_id:
            raise DigestMismatch(
                f"layer {layer.descriptor.digest} unpacks to {extracted.diff_id}, its image config says {layer.diff_id}"
            )

    def _download(self, layer: StoredLayer) -> Iterator[bytes]:
        """The blob's verified bytes, kept in the local store on their way."""
        if layer.origin is None:
            raise BlobLost(
                f"the blob {layer.descriptor.digest} of a reused step is gone from the state directory",
                layer.descriptor.digest,
            )
        with (
            self._found(layer),
            self._recorder.span("download", _label(layer), self._parent, digest=layer.descriptor.digest) as span,
        ):
            with self._store.spool() as spool:
                for block in self._until_stopped(self._origin.blob(layer.origin, layer.descriptor)):
                    spool.write(block)
                    span.progress(spool.size, layer.descriptor.size)
                    yield block
                spool.commit(layer.descriptor)
            span.set(bytes=layer.descriptor.size)

    @contextmanager
    def _found(self, layer: StoredLayer) -> Iterator[None]:
        """A blob that a record promises and its repository does not have is lost; a base image's is an error."""
        try:
            yield
        except ImageNotFound as error:
            if layer.layer.size:
                message = f"the blob {layer.descriptor.digest} of a reused step is gone from {layer.origin}"
                raise BlobLost(message, layer.descriptor.digest) from error
            raise

    def _until_stopped(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            if self._stop.is_set():
                raise Interrupted("the build was stopped")
            yield block

    def _blob_lock(self, layer: StoredLayer) -> threading.Lock:
        with self._lock:
            return self._blob_locks.setdefault(layer.descriptor.digest, threading.Lock())


def _label(layer: StoredLayer) -> str:
    return hex_of(layer.descriptor.digest)[:12]
