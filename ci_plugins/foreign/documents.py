"""Writes the documents of a forest: for every place the layers there and what stands on them.

A document is shared by all repositories that have a layer at its place. An index of one repository replaces the rows
of that one and keeps the others'. If two write the same document at once one is lost, and its next index, which
compares all documents with what it knows, puts that right.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.foreign.known import KnownLayer, newest, read_document, write_document
from ci_plugins.oci import Digest

#: A document holds no more, which is some 40 KB. What stands on its last layers is in documents of their own.
MOST_LAYERS = 256
#: documents looked at or written at a time
_AT_ONCE = 256


def publish(store: CacheStore, repository: str, before: Iterable[KnownLayer], now: Sequence[KnownLayer]) -> None:
    """Make the documents tell of `repository` what is known `now`; they told what was known `before`. Raises
    CacheUnavailable."""
    places: dict[str, set[Digest]] = defaultdict(set)
    for layer in (*before, *now):
        places[layer.scope].add(layer.place)
    forest = Forest(now)
    for scope, some in sorted(places.items()):
        ordered = sorted(some)
        for start in range(0, len(ordered), _AT_ONCE):
            _publish(store, repository, scope, ordered[start : start + _AT_ONCE], forest)


def _publish(store: CacheStore, repository: str, scope: str, places: Sequence[Digest], forest: Forest) -> None:
    held = store.lookup(places, [scope])
    changed: list[CacheRecord] = []
    same: list[Digest] = []
    gone: list[Digest] = []
    for place in places:
        told = read_document(held.get(place))
        layers = forest.with_others(layer for layer in told if layer.repository != repository).from_place(place)
        if not layers:
            gone += [place] if place in held else []
        elif layers == told:
            same.append(place)
        else:
            changed.append(write_document(place, layers))
    if gone:
        store.remove(gone, scope)
    if changed:
        store.put(changed)
    if same:
        store.touch(same, scope)


class Forest:
    """Layers by their places and by what they stand on."""

    def __init__(self, layers: Iterable[KnownLayer], under: Forest | None = None) -> None:
        self._under = under
        self._at: dict[Digest, list[KnownLayer]] = defaultdict(list)
        self._above: dict[Digest | None, list[KnownLayer]] = defaultdict(list)
        for layer in layers:
            self._at[layer.place].append(layer)
            self._above[layer.below].append(layer)

    def with_others(self, layers: Iterable[KnownLayer]) -> Forest:
        return Forest(layers, self)

    def from_place(self, place: Digest) -> tuple[KnownLayer, ...]:
        """The layers there, the newest first, and those that stand on them, the lowest first; where they would be too
        many the layer below says that there are `more`."""
        told = newest(self._layers_at(place))
        waiting = deque(told)
        expanded: dict[Digest, bool] = {}
        while waiting:
            chain = waiting.popleft().chain
            if chain in expanded:
                continue
            following = self._layers_on(chain)
            expanded[chain] = len(told) + len(following) > MOST_LAYERS
            if not expanded[chain]:
                told += following
                waiting.extend(following)
        return tuple(replace(layer, more=layer.more or expanded[layer.chain]) for layer in told)

    def _layers_at(self, place: Digest) -> list[KnownLayer]:
        return [*self._at.get(place, ()), *(self._under._layers_at(place) if self._under else ())]

    def _layers_on(self, chain: Digest) -> list[KnownLayer]:
        """As many of each place as are considered, the newest first."""
        places: dict[Digest, list[KnownLayer]] = defaultdict(list)
        forest: Forest | None = self
        while forest is not None:
            for layer in forest._above.get(chain, ()):
                places[layer.place].append(layer)
            forest = forest._under
        return [layer for _, some in sorted(places.items()) for layer in newest(some)]
