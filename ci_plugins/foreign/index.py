"""Reads the images of a repository into the forest: their layers as records in a scope of their own.

A record's parent is the `foreign_key` its layer is found by: the candidates for a step are the children of one key.
Its own key tells apart layers of equal steps, so that nothing is overwritten and nothing is asked twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from ci_plugins.cache.forest import newest_first
from ci_plugins.cache.record import CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.cache.store import CacheStore
from ci_plugins.errors import CiPluginsError, Interrupted
from ci_plugins.foreign.chains import ForeignLayer, UnfitHistory, foreign_layers
from ci_plugins.oci import Descriptor, Digest, ImageConfig, ImageIndex, Manifest, Reference, media
from ci_plugins.plan.keys import fields_digest
from ci_plugins.storage.blob import ImageOrigin

SCOPE = "foreign:"
#: How many layers of one place are considered, the newest first: each may cost questions and a download.
CANDIDATES = 8
#: A config larger than this is no image's: registries take manifests of 4 MiB.
_MAX_CONFIG = 16 << 20
_CONFIGS = (media.OCI_CONFIG, media.DOCKER_CONFIG)


def foreign_scope(repository: str) -> str:
    """`repository` is "host/name"."""
    return f"{SCOPE}{repository}"


def foreign_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    return tuple(scope for scope in scopes if scope.startswith(SCOPE))


@dataclass(slots=True)
class Indexed:
    """What was found in one repository. `unchanged` tags were read before; `left_out` are (image, reason)."""

    repository: str
    tags: int = 0
    unchanged: int = 0
    images: int = 0
    layers: int = 0
    removed: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag as it was read: of all platforms together."""

    image: ImageRecord
    records: Sequence[CacheRecord]
    images: int
    left_out: Sequence[tuple[str, str]]


class Indexer:
    """`resolve` asks for the digest a tag points to now."""

    def __init__(
        self, origin: ImageOrigin, resolve: Callable[[Reference], Descriptor], store: CacheStore, pool: Executor
    ) -> None:
        self._origin, self._resolve, self._store, self._pool = origin, resolve, store, pool

    def index(self, repository: str, tags: Sequence[str]) -> Indexed:
        """Read what has changed, forget what is gone. `tags` are all the repository has. Raises CacheUnavailable; what
        is wrong with one image, or with getting it, is told in `left_out`."""
        scope = foreign_scope(repository)
        known = {image.name: image for image in self._store.images([scope])}
        result = Indexed(repository, tags=len(tags))
        references = [Reference.parse(f"{repository}:{tag}") for tag in tags]
        futures = [self._pool.submit(self._read, one, known.get(str(one)), scope) for one in references]
        kept: set[Digest] = set()
        records: dict[Digest, CacheRecord] = {}
        images: list[ImageRecord] = []
        for reference, future in zip(references, futures, strict=True):
            try:
                tag = future.result()
            except Interrupted:
                raise
            except CiPluginsError as error:
                result.left_out.append((str(reference), error.message))
                if before := known.get(str(reference)):
                    kept.update(before.keys)  # it may be there again next time
                continue
            kept.update(tag.image.keys)
            result.left_out += tag.left_out
            if tag.image is known.get(str(reference)):
                result.unchanged += 1
                continue
            result.images += tag.images
            images.append(tag.image)
            records.update((record.key, record) for record in tag.records)
        stored = {record.key: record for record in self._store.records([scope]) if record.key in kept}
        worth = _newest_of_each({**stored, **records}.values())
        new = [record for key, record in records.items() if key in worth]
        result.layers = len(new)
        gone = [record.key for record in self._store.records([scope]) if record.key not in kept & worth]
        if gone:
            self._store.remove(gone, scope)
            result.removed = len(gone)
        if images:
            self._store.put(new, images)
        return result

    def _read(self, reference: Reference, known: ImageRecord | None, scope: str) -> _Tag:
        if known is not None and self._resolve(reference).digest == known.manifest:
            return _Tag(known, (), 0, ())
        found = self._origin.manifest(reference)
        digest = found.descriptor.digest
        left_out: list[tuple[str, str]] = []
        records: dict[Digest, CacheRecord] = {}
        created, images = "", 0
        for manifest in self._manifests(reference, found):
            try:
                config = self._config(reference, manifest.config)
                layers = foreign_layers(config, manifest.layers)
            except UnfitHistory as error:
                left_out.append((f"{reference} ({manifest.descriptor.digest[:19]}…)", str(error)))
                continue
            images += 1
            created = max(created, config.created)
            records.update((record.key, record) for record in (_record(layer, reference, scope) for layer in layers))
        image = ImageRecord(str(reference), digest, tuple(records), created, scope)
        return _Tag(image, tuple(records.values()), images, left_out)

    def _manifests(self, reference: Reference, found: Manifest | ImageIndex) -> list[Manifest]:
        if isinstance(found, Manifest):
            return [found]
        # "unknown" is the platform of BuildKit's attestations
        entries = [entry for entry in found.manifests if not (entry.platform and entry.platform.os == "unknown")]
        read = [self._origin.manifest(reference.at(entry.digest)) for entry in entries]
        return [manifest for manifest in read if isinstance(manifest, Manifest)]

    def _config(self, reference: Reference, descriptor: Descriptor) -> ImageConfig:
        if descriptor.media_type not in _CONFIGS:
            raise UnfitHistory(f"it is no image but of type {descriptor.media_type}")
        if descriptor.size > _MAX_CONFIG:
            raise UnfitHistory(f"its config has {descriptor.size} bytes")
        try:
            return ImageConfig.from_bytes(b"".join(self._origin.blob(reference, descriptor)))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UnfitHistory(f"its config cannot be read: {error}") from error


def _newest_of_each(records: Iterable[CacheRecord]) -> set[Digest]:
    """Keys of as many layers of equal steps as are ever considered: a thousand tags differ in one COPY, and nobody
    shall have to read a thousand records to look at the newest."""
    by_step: dict[Digest | None, list[CacheRecord]] = defaultdict(list)
    for record in records:
        by_step[record.parent].append(record)
    return {record.key for equal in by_step.values() for record in newest_first(equal)[:CANDIDATES]}


def _record(layer: ForeignLayer, reference: Reference, scope: str) -> CacheRecord:
    return CacheRecord(
        key=fields_digest(layer.key, layer.diff_id),
        parent=layer.key,
        instruction=f"{layer.command.kind} {layer.command.text}",
        # The size uncompressed is not known before somebody has read it: it is not less than this.
        layer=RecordedLayer(layer.descriptor, layer.diff_id, layer.descriptor.size),
        created=layer.created,
        seconds=0.0,
        scope=scope,
        repositories=(f"{reference.registry}/{reference.repository}",),
        inputs={"image": str(reference), "below": layer.below or "", "chain": layer.chain},
    )
