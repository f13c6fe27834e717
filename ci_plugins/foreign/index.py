"""Reads the images of a repository into an index: what their histories tell of their layers, and no layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from ci_plugins.cache.store import CacheStore
from ci_plugins.errors import CiPluginsError, Interrupted
from ci_plugins.foreign.chains import ForeignLayer, UnfitHistory, foreign_layers
from ci_plugins.foreign.documents import publish
from ci_plugins.foreign.history import Kind
from ci_plugins.foreign.known import KnownLayer
from ci_plugins.foreign.noted import Noted, NotedTag, read_noted, touch_noted, write_noted
from ci_plugins.oci import Descriptor, Digest, ImageConfig, ImageIndex, Manifest, Reference, media
from ci_plugins.storage.blob import ImageOrigin

#: A config larger than this is no image's: registries take manifests of 4 MiB.
_MAX_CONFIG = 16 << 20
_CONFIGS = (media.OCI_CONFIG, media.DOCKER_CONFIG)


@dataclass(slots=True)
class Indexed:
    """What was found in one repository. `unchanged` tags were read before, `layers` are known now, `removed` ones are
    not any more; `left_out` are (image, reason)."""

    repository: str
    tags: int = 0
    unchanged: int = 0
    images: int = 0
    layers: int = 0
    removed: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Read:
    """A tag as it is now; `images` of it were read."""

    tag: NotedTag
    images: int = 0
    left_out: Sequence[tuple[str, str]] = ()


class Indexer:
    """`resolve` asks for the digest a tag points to now."""

    def __init__(
        self, origin: ImageOrigin, resolve: Callable[[Reference], Descriptor], store: CacheStore, pool: Executor
    ) -> None:
        self._origin, self._resolve, self._store, self._pool = origin, resolve, store, pool

    def index(self, repository: str, tags: Sequence[str]) -> Indexed:
        """Read what has changed, forget what is gone. `tags` are all the repository has. Raises CacheUnavailable; what
        is wrong with one image, or with getting it, is told in `left_out`."""
        result = Indexed(repository, tags=len(tags))
        before = read_noted(self._store, repository)
        now = Noted.of(repository, self._tags(before, tags, result))
        known, layers = before.layers(), now.layers()
        result.layers = len(layers)
        result.removed = len({layer.identity for layer in known} - {layer.identity for layer in layers})
        publish(self._store, repository, known, layers)
        # Last: what is noted is not read again.
        if now == before:
            touch_noted(self._store, now)
        else:
            write_noted(self._store, now)
        return result

    def _tags(self, before: Noted, tags: Sequence[str], result: Indexed) -> dict[str, NotedTag]:
        references = [Reference.parse(f"{before.repository}:{tag}") for tag in tags]
        futures = [self._pool.submit(self._read, one, before.tags.get(one.tag)) for one in references]
        found: dict[str, NotedTag] = {}
        for reference, future in zip(references, futures, strict=True):
            known = before.tags.get(reference.tag)
            try:
                read = future.result()
            except Interrupted:
                raise
            except CiPluginsError as error:
                result.left_out.append((str(reference), error.message))
                if known:
                    found[reference.tag] = known  # it may be there again next time
                continue
            found[reference.tag] = read.tag
            result.unchanged += read.tag is known
            result.images += read.images
            result.left_out += read.left_out
        return found

    def _read(self, reference: Reference, known: NotedTag | None) -> _Read:
        if known is not None and self._resolve(reference).digest == known.manifest:
            return _Read(known)
        found = self._origin.manifest(reference)
        left_out: list[tuple[str, str]] = []
        layers: list[KnownLayer] = []
        images = 0
        for manifest in self._manifests(reference, found):
            try:
                config = self._config(reference, manifest.config)
                some = foreign_layers(config, manifest.layers)
            except UnfitHistory as error:
                left_out.append((f"{reference} ({manifest.descriptor.digest[:19]}…)", str(error)))
                continue
            images += 1
            layers += [_known(layer, config.diff_ids[0], reference) for layer in _before_runs(some)]
        return _Read(NotedTag(found.descriptor.digest, tuple(dict.fromkeys(layers))), images, left_out)

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


def _before_runs(layers: Sequence[ForeignLayer]) -> list[ForeignLayer]:
    """RUNs, and what leads to one without a gap: nothing else is ever taken."""
    kept: list[ForeignLayer] = []
    for layer in reversed(layers):
        if layer.command.kind is Kind.RUN or (kept and kept[-1].below == layer.chain):
            kept.append(layer)
    return kept[::-1]


def _known(layer: ForeignLayer, lowest: Digest, reference: Reference) -> KnownLayer:
    return KnownLayer(
        place=layer.key,
        below=layer.below,
        bottom=lowest if layer.below else None,
        diff_id=layer.diff_id,
        descriptor=layer.descriptor,
        created=layer.created,
        image=str(reference),
    )
