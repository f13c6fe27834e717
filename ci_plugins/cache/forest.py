"""What all stores agree on: which record is newer, which ones a prune takes, what a table of contents has to be."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import TypeVar

from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import Pruned
from ci_plugins.oci import Descriptor, Digest, sha256_digest

#: Seconds a table of contents is kept without a record that names it: it is stored before its record is.
TOC_GRACE = 3600.0

R = TypeVar("R", CacheRecord, ImageRecord)


def newest_first(records: Iterable[R]) -> tuple[R, ...]:
    """By the time of the step or image, not by that of its storing. What has no readable time is oldest."""
    return tuple(sorted(records, key=lambda record: moment(record.created), reverse=True))


def moment(created: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; 0 if it is none."""
    try:
        at = datetime.fromisoformat(created)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def first_of_names(images: Iterable[ImageRecord], scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
    """The newest first; of one name that of the first scope that has it."""
    order = {scope: number for number, scope in reversed(list(enumerate(scopes)))}
    chosen: dict[str, ImageRecord] = {}
    for image in sorted(images, key=lambda image: order[image.scope]):
        chosen.setdefault(image.name, image)
    return newest_first(chosen.values())


def toc_digests(record: CacheRecord) -> set[Digest]:
    """The tables of contents a record names."""
    layers = [*([record.layer] if record.layer else []), *record.base]
    return {layer.toc.digest for layer in layers if layer.toc}


def is_what_it_says(data: bytes, descriptor: Descriptor) -> bool:
    """Whether these are the bytes of that blob."""
    return len(data) == descriptor.size and sha256_digest(data) == descriptor.digest


# -- prune -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Node:
    """What a prune has to know of a record. `used` is in seconds since the epoch; `size` counts the bytes of the
    compressed layer, which other records may have too; `layer` is empty where there is none."""

    scope: str
    key: str
    parent: str
    layer: str
    size: int
    used: float

    @classmethod
    def of(cls, record: CacheRecord, used: float) -> Node:
        layer = record.layer.descriptor if record.layer else None
        digest, size = (layer.digest, layer.size) if layer else ("", 0)
        return cls(record.scope, record.key, record.parent or "", digest, size, used)


def to_prune(nodes: Sequence[Node], older_than: datetime | None, max_size: int | None) -> tuple[list[Node], Pruned]:
    """What goes, so that a record never goes without all that stand on it.

    A record counts as used when one that stands on it was used. It stands on its parent in its own scope or, if that
    has none, on those in all others. Layers are counted once, however many records have them.
    """
    ordered = _oldest_first(nodes)
    limit = None if older_than is None else older_than.timestamp()
    holders = Counter(node.layer for node in nodes if node.layer)
    sizes = {node.layer: node.size for node in nodes}
    total = sum(sizes[layer] for layer in holders)
    gone: list[Node] = []
    removed = 0
    for used, node in ordered:
        too_old = limit is not None and used < limit
        if not too_old and (max_size is None or total - removed <= max_size):
            break
        gone.append(node)
        if node.layer:
            holders[node.layer] -= 1
            removed += 0 if holders[node.layer] else sizes[node.layer]
    return gone, Pruned(len(gone), removed)


def _oldest_first(nodes: Sequence[Node]) -> list[tuple[float, Node]]:
    """With the time at which the node or one above it was used; what stands on a node comes before it."""
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for number, node in enumerate(nodes):
        places[node.key][node.scope] = number
    below = [_stands_on(node, places) for node in nodes]
    above = Counter(parent for parents in below for parent in parents)
    used = [node.used for node in nodes]
    ready = deque(number for number in range(len(nodes)) if not above[number])
    order: list[int] = []
    while ready:
        number = ready.popleft()
        order.append(number)
        for parent in below[number]:
            used[parent] = max(used[parent], used[number])
            above[parent] -= 1
            if not above[parent]:
                ready.append(parent)
    # A key is a digest over its parent's, so there is no circle: unless somebody made the records up.
    order += sorted(set(range(len(nodes))).difference(order))
    return sorted(((used[number], nodes[number]) for number in order), key=itemgetter(0))


def _stands_on(node: Node, places: Mapping[str, Mapping[str, int]]) -> Sequence[int]:
    parents = places.get(node.parent, {})
    return (parents[node.scope],) if node.scope in parents else tuple(parents.values())
