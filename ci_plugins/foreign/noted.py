"""What was read of one repository, so that it is not read again: every tag with its manifest and layers.

It is kept in as few records as it fits into, for reading them has to cost less than asking for every tag. A part that
is missing or damaged makes all of it unread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.foreign.known import LAYOUT, KnownLayer, newest, pack, read_rows, repository_scope, unpack
from ci_plugins.oci import Digest, parse_digest
from ci_plugins.plan.keys import fields_digest

#: Characters in a record: registries take manifests of 4 MiB.
_PART = 400 << 10


@dataclass(frozen=True, slots=True)
class NotedTag:
    """A tag, of all platforms together, as it was when it pointed to `manifest`."""

    manifest: Digest
    layers: tuple[KnownLayer, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """`repository` is "host/name". Of layers in one place no more are noted than are ever considered: a thousand tags
    differ in one COPY, and nobody shall have to read a thousand rows to look at the newest."""

    repository: str
    tags: Mapping[str, NotedTag] = field(default_factory=dict)

    @classmethod
    def of(cls, repository: str, tags: Mapping[str, NotedTag]) -> Noted:
        """A layer that many tags have is named after the first."""
        known: dict[tuple[Digest, Digest], KnownLayer] = {}
        for name, tag in tags.items():
            for layer in tag.layers:
                known.setdefault(layer.identity, replace(layer, image=f"{repository}:{name}"))
        equal: dict[Digest, list[KnownLayer]] = defaultdict(list)
        for layer in known.values():
            equal[layer.place].append(layer)
        worth = {layer.identity for some in equal.values() for layer in newest(some)}
        kept = {
            name: NotedTag(
                tag.manifest, tuple(known[layer.identity] for layer in tag.layers if layer.identity in worth)
            )
            for name, tag in tags.items()
        }
        return cls(repository, kept)

    def layers(self) -> list[KnownLayer]:
        return list(dict.fromkeys(layer for tag in self.tags.values() for layer in tag.layers))


def read_noted(store: CacheStore, repository: str) -> Noted:
    """Empty if nothing was read. Raises CacheUnavailable."""
    scope = repository_scope(repository)
    first = store.lookup([_key(repository, 0)], [scope]).get(_key(repository, 0))
    if first is None or first.inputs.get("version") != LAYOUT:
        return Noted(repository)
    try:
        keys = [_key(repository, number) for number in range(1, int(first.inputs["parts"]))]
        others = store.lookup(keys, [scope]) if keys else {}
        parts = [first, *(others[key] for key in keys)]
        value = unpack("".join(part.inputs["content"] for part in parts))
        layers = read_rows(value["layers"])
        return Noted(
            repository,
            {
                str(tag): NotedTag(parse_digest(manifest), tuple(layers[number] for number in numbers))
                for tag, (manifest, numbers) in value["tags"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Noted(repository)


def write_noted(store: CacheStore, noted: Noted) -> None:
    """Raises CacheUnavailable."""
    store.put(_records(noted))


def touch_noted(store: CacheStore, noted: Noted) -> None:
    """It was used now. Raises CacheUnavailable."""
    store.touch([record.key for record in _records(noted)], repository_scope(noted.repository))


def _records(noted: Noted) -> Sequence[CacheRecord]:
    numbers: dict[KnownLayer, int] = {}
    for tag in noted.tags.values():
        for layer in tag.layers:
            numbers.setdefault(layer, len(numbers))
    tags = {name: (tag.manifest, [numbers[layer] for layer in tag.layers]) for name, tag in noted.tags.items()}
    text = pack({"tags": tags, "layers": [layer.to_row() for layer in numbers]})
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    return [
        CacheRecord(
            key=_key(noted.repository, number),
            parent=None,
            instruction=f"index of {noted.repository}: {len(tags)} tags, {len(numbers)} layers, part {number + 1}",
            layer=None,
            created="",
            seconds=0.0,
            scope=repository_scope(noted.repository),
            inputs={"version": LAYOUT, "parts": str(len(parts)), "content": part},
        )
        for number, part in enumerate(parts)
    ]


def _key(repository: str, number: int) -> Digest:
    return fields_digest("foreign index", repository, number)
