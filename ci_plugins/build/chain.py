"""A stage's layers while it is being built: each known by its contents first, by its digests later."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ci_plugins.cache.record import RecordedLayer
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree
from ci_plugins.oci import Digest, chain_id
from ci_plugins.transfer.pull import LayerFetcher, StoredLayer


class ChainLayer(Protocol):
    """One layer; every method waits for what it returns."""

    def toc(self) -> Toc: ...

    def files(self) -> Path:
        """The directory of its files, ready to be an overlay lower directory."""

    def recorded(self) -> RecordedLayer: ...


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A layer of a base image or of a reused step."""

    layer: StoredLayer
    fetcher: LayerFetcher

    def toc(self) -> Toc:
        return self.fetcher.toc(self.layer)

    def files(self) -> Path:
        return self.fetcher.snapshot(self.layer)

    def recorded(self) -> RecordedLayer:
        return self.layer.layer


@dataclass(frozen=True, slots=True)
class FreshLayer:
    """A layer that a step of this build has made: its contents are known at once, files and digests follow."""

    contents: Toc
    directory: Future[Path]
    written: Future[RecordedLayer]

    def toc(self) -> Toc:
        return self.contents

    def files(self) -> Path:
        return self.directory.result()

    def recorded(self) -> RecordedLayer:
        return self.written.result()


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers, lowest first, and the merged view of their contents (read only when asked for)."""

    layers: tuple[ChainLayer, ...] = ()

    def tree(self) -> LayerTree:
        return LayerTree([layer.toc() for layer in self.layers])

    def lowers(self) -> tuple[Path, ...]:
        """Directories for overlayfs, topmost first."""
        return tuple(layer.files() for layer in reversed(self.layers))

    def push(self, layer: ChainLayer) -> Chain:
        return Chain((*self.layers, layer))

    def chain_id(self) -> Digest | None:
        """Waits until every layer is written."""
        found: Digest | None = None
        for layer in self.layers:
            found = chain_id(found, layer.recorded().diff_id)
        return found


def known_chain(below: Chain, layers: Sequence[StoredLayer], fetcher: LayerFetcher) -> Chain:
    return Chain((*below.layers, *(KnownLayer(layer, fetcher) for layer in layers)))
