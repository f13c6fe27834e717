"""The forest of layers built elsewhere as a walk sees it: documents are asked for once, many in one question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ci_plugins.cache.record import CacheRecord
from ci_plugins.foreign.known import KnownLayer, newest, read_document
from ci_plugins.oci import Digest

#: (keys, scopes) → what every store says of them
LookUp = Callable[[Sequence[Digest], Sequence[str]], Sequence[Mapping[Digest, CacheRecord]]]


class ForeignForest:
    """`questions` counts how often `look_up` was asked."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._asked: set[Digest] = set()
        #: by place; of all documents that tell of it
        self._layers: dict[Digest, dict[tuple[str, Digest], KnownLayer]] = defaultdict(dict)
        #: chains of which a document tells all, or not all, that stands on them
        self._told: set[Digest] = set()
        self._open: set[Digest] = set()
        self.questions = 0

    def ask(self, places: Mapping[Digest, str]) -> None:
        """For the documents of these places, each with its scope: one question, or none if all were asked for."""
        new = {place: scope for place, scope in places.items() if place not in self._asked}
        if not new:
            return
        self._asked.update(new)
        self.questions += 1
        for answer in self._look_up(list(new), list(dict.fromkeys(new.values()))):
            for place in new:
                for layer in read_document(answer.get(place)):
                    self._learn(layer)

    def layers(self, place: Digest) -> Sequence[KnownLayer]:
        """As many as are considered, the newest first."""
        return newest(self._layers[place].values()) if place in self._layers else ()

    def tells_all(self, chain: Digest) -> bool:
        """Whether everything is known that stands on this chain."""
        return chain in self._told and chain not in self._open

    def _learn(self, layer: KnownLayer) -> None:
        self._layers[layer.place].setdefault((layer.repository, layer.diff_id), layer)
        self._told.add(layer.chain)
        if layer.more:
            self._open.add(layer.chain)
