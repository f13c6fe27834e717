"""From what somebody types to a chain of the forest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.errors import UsageError
from ci_plugins.oci import Digest, Reference

_KEY = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})\Z")
#: how many of several candidates an error names
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps from the beginning to the one that was asked for; `root` is the beginning's own record, where there is one.
    `missing` keys of the image are known to no scope."""

    scope: str
    image: ImageRecord | None
    root: CacheRecord | None
    steps: tuple[CacheRecord, ...]
    missing: tuple[Digest, ...]


def find_chain(store: CacheStore, subject: str) -> Chain:
    """`subject` is an image's name, or a key or the beginning of one. Raises UsageError for nothing and for too much,
    CacheUnavailable."""
    scopes = store.scopes()
    images = [image for scope in scopes for image in store.images([scope])]
    if image := _image(images, subject):
        return _of_image(store, image, [image.scope, *scopes])
    records = list(store.records(scopes))
    record = _step(records, subject)
    return _of_step(record, records)


def _image(images: Sequence[ImageRecord], subject: str) -> ImageRecord | None:
    """By its whole name, by a name as Docker shortens it, or the newest of a repository."""
    wanted = {subject, _full(subject)}
    exact = [image for image in images if image.name in wanted]
    if not exact and ":" not in subject.rpartition("/")[2]:
        repository = _full(subject).removesuffix(":latest")
        exact = [image for image in images if image.name.rpartition(":")[0] == repository]
    return max(exact, key=lambda image: image.created, default=None)


def _full(name: str) -> str:
    try:
        return str(Reference.parse(name))
    except ValueError:
        return name


def _of_image(store: CacheStore, image: ImageRecord, scopes: Sequence[str]) -> Chain:
    records = store.lookup(image.keys, scopes)
    steps = [records[key] for key in image.keys if key in records]
    root = next((record for record in steps if record.parent is None), None)
    # the first key is that of the base image: it may have no record
    missing = tuple(key for key in image.keys[1:] if key not in records)
    return Chain(image.scope, image, root, tuple(record for record in steps if record is not root), missing)


def _step(records: Sequence[CacheRecord], subject: str) -> CacheRecord:
    match = _KEY.match(subject)
    found = [record for record in records if match and record.key.startswith(f"sha256:{match[1]}")]
    keys = {record.key for record in found}
    if len(keys) > 1:
        some = ", ".join(f"{record.key[:23]} ({record.instruction})" for record in found[:_NAMED])
        raise UsageError(f"{subject} is the beginning of {len(keys)} keys: {some}", remedy="Give more digits.")
    if not found:
        raise UsageError(
            f"the cache knows no image and no step {subject}", remedy="ci-plugins cache tree shows what it knows."
        )
    return found[0]


def _of_step(step: CacheRecord, records: Iterable[CacheRecord]) -> Chain:
    by_key: Mapping[Digest, CacheRecord] = {
        record.key: record for record in sorted(records, key=lambda record: record.scope == step.scope)
    }
    steps = [step]
    while (parent := steps[0].parent) is not None and parent in by_key and by_key[parent] not in steps:
        steps.insert(0, by_key[parent])
    root = steps[0] if steps[0].parent is None else None
    return Chain(step.scope, None, root, tuple(record for record in steps if record is not root), ())
