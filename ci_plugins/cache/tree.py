"""The forest as people look at it: what stands on what, in one scope at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ci_plugins.cache.forest import newest_first
from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.oci import Digest


@dataclass(slots=True)
class Node:
    """A step, or the place where a chain begins: then `record` may be None, and `title` says what is known of it.
    `images` end here. Children are the newest first."""

    key: Digest
    title: str
    record: CacheRecord | None
    images: list[str] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ScopeTree:
    """One scope: `bytes` are those of its compressed layers, each counted once."""

    scope: str
    roots: tuple[Node, ...]
    records: int
    bytes: int


def forest(store: CacheStore) -> tuple[ScopeTree, ...]:
    """All scopes, sorted. Raises CacheUnavailable."""
    return tuple(
        scope_tree(scope, tuple(store.records([scope])), store.images([scope])) for scope in sorted(store.scopes())
    )


def scope_tree(scope: str, records: Sequence[CacheRecord], images: Iterable[ImageRecord]) -> ScopeTree:
    nodes = {record.key: Node(record.key, record.instruction, record) for record in records}
    roots: dict[Digest, Node] = {}
    for record in newest_first(records):
        node = nodes[record.key]
        if record.parent is None:
            roots[record.key] = node
        elif record.parent in nodes:
            nodes[record.parent].children.append(node)
        else:
            root = roots.setdefault(record.parent, Node(record.parent, _beginning(record), None))
            root.children.append(node)
    for image in images:
        if image.keys and (end := nodes.get(image.keys[-1])):
            end.images.append(image.name)
    layers = {record.layer.descriptor.digest: record.layer.descriptor.size for record in records if record.layer}
    return ScopeTree(
        scope, tuple(sorted(roots.values(), key=lambda root: root.title)), len(records), sum(layers.values())
    )


def _beginning(record: CacheRecord) -> str:
    """What a first step knows of what it stands on."""
    base = record.inputs.get("base")
    return f"FROM {base}" if base else "… (a step that is not in this scope)"
