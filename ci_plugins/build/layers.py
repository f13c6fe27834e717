"""From a step's items to a written layer: streamed behind the build, sent while it is compressed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.build.chain import Chain, FreshLayer
from ci_plugins.cache.layers import LayerCache, NewSnapshot
from ci_plugins.cache.record import RecordedLayer
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.adopt import adopt_parents
from ci_plugins.layer.ahead import Ahead
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import Compression
from ci_plugins.layer.entry import Item
from ci_plugins.layer.stream import Contents, contents_of, stream_layer
from ci_plugins.layer.tree import LayerTree
from ci_plugins.oci import chain_id
from ci_plugins.storage.local import LocalStore
from ci_plugins.transfer.push import Push


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWriter:
    """Writes the layers of one build."""

    store: LocalStore
    layers: LayerCache
    compression: Compression
    budget: MemoryBudget
    pool: Executor
    recorder: Recorder

    def ahead(self, upper: Path) -> Ahead:
        """Compress what a RUN writes into `upper` while it runs."""
        return Ahead(upper, self.compression, self.store.root)

    def write(
        self,
        items: Sequence[Item],
        below: Chain,
        tree: LayerTree,
        snapshot: NewSnapshot | None,
        *,
        extract: bool,
        push: Push | None,
        step: ActiveSpan,
        ahead: Ahead | None = None,
    ) -> FreshLayer:
        """Begin to write a layer.

        `below` and `tree`: what the layer stands on. `snapshot`: the directory that holds the files already, or with
        `extract` shall hold them; None if nobody needs them. `push`: where the blob is sent while it is compressed.
        `ahead`: what was compressed while the files were written.
        """
        contents, encoded = contents_of(items), Future[bytes]()
        directory: Future[Path] = Future()
        if snapshot is not None and not extract:
            directory.set_result(snapshot.path)
        written = self.pool.submit(
            self._stream, contents, encoded, below, tree, snapshot, extract, directory, push, step, ahead
        )
        if ahead is not None:
            # To remove its file takes a while, and nobody is to wait for that.
            written.add_done_callback(lambda _: ahead.close())
        # Here, while the layer is hashed, and not when all wait for its record.
        try:
            encoded.set_result(contents.toc.to_bytes())
        except BaseException as error:
            encoded.set_exception(error)  # who waits for it must not wait for ever
            raise
        return FreshLayer(contents.toc, directory, written)

    def _stream(
        self,
        contents: Contents,
        encoded: Future[bytes],
        below: Chain,
        tree: LayerTree,
        snapshot: NewSnapshot | None,
        extract: bool,
        directory: Future[Path],
        push: Push | None,
        step: ActiveSpan,
        ahead: Ahead | None,
    ) -> RecordedLayer:
        try:
            with self.recorder.span("layer", step.name, step) as span, self.store.spool() as spool:
                if push is not None:
                    push.stream(spool, step.name, step)
                layer = stream_layer(
                    contents,
                    compression=self.compression,
                    spool=spool,
                    span=span,
                    extract_to=snapshot.path if snapshot and extract else None,
                    budget=self.budget,
                    ahead=ahead,
                )
            if snapshot is not None and extract:
                adopt_parents(snapshot.path, layer.toc.implied_parents(), tree.entry)
                directory.set_result(snapshot.path)
        except BaseException as error:
            if not directory.done():
                directory.set_exception(error)
            raise
        toc = self.layers.put_toc(layer.diff_id, layer.toc, encoded.result())
        if snapshot is not None:
            snapshot.publish(chain_id(below.chain_id(), layer.diff_id), layer.toc)
        return RecordedLayer(layer.descriptor, layer.diff_id, layer.size, toc)
