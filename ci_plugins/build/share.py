"""What a build leaves behind: records of its steps, on this machine at once, and for other runners those whose blobs
are in a repository everybody reads, after the image is published.

Nothing here can fail a build: what cannot be shared is said and left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from ci_plugins.build.prepare import created_at, image_names
from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.record import CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.cache.store import CacheStore, CacheUnavailable
from ci_plugins.errors import CiPluginsError
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.toc import MEDIA_TYPE
from ci_plugins.oci import Descriptor, Digest, Manifest, Reference, sha256_digest
from ci_plugins.options.settings import BuildOptions
from ci_plugins.plan.planner import Plan, PlannedStage
from ci_plugins.plan.steps import BaseImage
from ci_plugins.storage.registry import RegistryClient, RegistryDestination
from ci_plugins.transfer.pull import LayerFetcher, stored_layers
from ci_plugins.transfer.push import Push, Target


@dataclass(frozen=True, slots=True)
class Sharing:
    """Where to: records to `store` in `scope`; their blobs are, or will be, in `repository` ("host/name"). `has_image`:
    the image itself is pushed there."""

    store: CacheStore
    scope: str
    repository: str
    has_image: bool

    @classmethod
    def of(cls, options: BuildOptions, store: CacheStore) -> Sharing | None:
        """None where nothing of a build's blobs is in a repository that others read."""
        pushed = [f"{tag.registry}/{tag.repository}" for tag in options.tags] if options.push else []
        kind, _, name = options.cache.partition("://")
        repository = name if kind == "registry" else next(iter(pushed), "")
        if options.cache == "off" or not repository:
            return None
        return cls(store, options.cache_scope, repository, has_image=repository in pushed)


class BuildRecords:
    """The records one build makes. Thread safe."""

    def __init__(
        self,
        options: BuildOptions,
        cache: ChainedStore,
        layers: LayerCache,
        fetcher: LayerFetcher,
        client: Callable[[str], RegistryClient],
        uploads: Executor,
        recorder: Recorder,
        span: ActiveSpan,
        stop: threading.Event,
    ) -> None:
        self._options, self._cache, self._layers, self._fetcher = options, cache, layers, fetcher
        self._client, self._uploads = client, uploads
        self._recorder, self._span, self._stop = recorder, span, stop
        self._sharing = Sharing.of(options, cache)
        #: of executed steps, by key
        self._made: dict[Digest, CacheRecord] = {}

    def add(self, record: CacheRecord) -> None:
        """A step is done and its layer written. On this machine only: no other can use it before its blobs are in
        place. Its table of contents goes ahead."""
        record = replace(record, scope=self._options.cache_scope)
        self._made[record.key] = record
        self._cache.put_local([record])
        if self._sharing is not None:
            self._cache.put_tocs(_tocs([record], self._layers))

    def remember(self, plan: Plan, roots: Mapping[Digest, CacheRecord], manifest: Manifest) -> None:
        """The image is in place: its path through the forest, here, and where others read it."""
        scope, now = self._options.cache_scope, created_at(self._options.build_args)
        names = image_names(self._options)
        images = [ImageRecord(name, manifest.descriptor.digest, plan.path(), now, scope) for name in names]
        self._cache.put_local([], images)
        if self._sharing is not None:
            self._share(plan, roots, images[: len(self._options.tags)], self._sharing)

    def _share(
        self, plan: Plan, roots: Mapping[Digest, CacheRecord], images: Sequence[ImageRecord], sharing: Sharing
    ) -> None:
        reused = {record.key: record for planned in plan.stages for record in planned.records}
        records = {**reused, **self._made}
        with self._recorder.span("cache", "share", self._span) as span:
            try:
                self._send_layers(list(layers_to_send(plan, records, sharing)), sharing.repository, span)
                span.set(records=share(plan, records, roots, images, self._layers, sharing))
            except (CiPluginsError, CacheUnavailable) as error:
                self._recorder.warn(f"not shared with other runners: {error}")

    def _send_layers(self, records: Sequence[CacheRecord], repository: str, span: ActiveSpan) -> None:
        if not records:
            return
        reference = Reference.parse(repository)
        destination = RegistryDestination(self._client(reference.registry), reference.repository)
        push = Push([Target(destination, ())], self._recorder, self._uploads, lambda error: None, self._stop)
        send_layers(records, push, self._fetcher, span)


def layers_to_send(plan: Plan, records: Mapping[Digest, CacheRecord], sharing: Sharing) -> Iterator[CacheRecord]:
    """Records whose layers are not in the repository yet: those of stages that are no part of the image, or all."""
    image = {step.key for stage in plan.ancestry() for step in stage.steps} if sharing.has_image else set()
    for planned in plan.stages:
        for step in planned.stage.steps:
            record = records.get(step.key)
            if step.key not in image and record and record.layer and sharing.repository not in record.repositories:
                yield record


def send_layers(records: Iterable[CacheRecord], push: Push, fetcher: LayerFetcher, parent: ActiveSpan) -> None:
    """Make sure that the layers are at the push's target: mounted, or sent, for which some have to be fetched. Waits;
    raises the first error."""
    for record in records:
        if record.layer is not None:
            origin = Reference.parse(record.repositories[0]) if record.repositories else None
            [layer] = stored_layers([record.layer], origin, record.repositories)
            push.stored(layer.descriptor, origin, partial(fetcher.blob, layer), parent)
    push.wait()


def share(
    plan: Plan,
    records: Mapping[Digest, CacheRecord],
    roots: Mapping[Digest, CacheRecord],
    images: Sequence[ImageRecord],
    layers: LayerCache,
    sharing: Sharing,
) -> int:
    """Write what the store does not have yet; `records` are all of this build's, by key, reused and new ones. Every
    layer of theirs is in the repository. Returns how many records were new."""
    new = [
        replace(
            record,
            scope=sharing.scope,
            repositories=_with(record.repositories, sharing.repository),
            layer=_described(record.layer, layers),
        )
        for planned in plan.stages
        for step in planned.stage.steps
        if (record := records.get(step.key)) and sharing.repository not in record.repositories
    ]
    new_roots = [root for planned in plan.stages if (root := _root(planned, roots, layers, sharing))]
    if new or new_roots:
        sharing.store.put_tocs(_tocs([*new_roots, *new], layers))
        sharing.store.put([*new_roots, *new], images)
    return len(new)


def _root(
    planned: PlannedStage, roots: Mapping[Digest, CacheRecord], layers: LayerCache, sharing: Sharing
) -> CacheRecord | None:
    """The record of a base image whose layers' contents are known by now; None where there is nothing new to say."""
    base = planned.stage.base
    if not isinstance(base, BaseImage) or base.digest in roots:
        return None
    known = [_with_toc(blob, diff_id, layers) for blob, diff_id in base.layers]
    recorded = tuple(layer for layer in known if layer)
    if len(recorded) < len(known):
        return None
    return CacheRecord(
        key=planned.stage.root_key,
        parent=None,
        instruction=f"FROM {base.name}",
        layer=None,
        created=base.config.created,
        seconds=0.0,
        scope=sharing.scope,
        repositories=(sharing.repository,),
        base=recorded,
        inputs={"image": base.name, "manifest": base.digest},
    )


def _with_toc(blob: Descriptor, diff_id: Digest, layers: LayerCache) -> RecordedLayer | None:
    data = layers.toc_bytes(diff_id)
    if data is None:
        return None
    return RecordedLayer(blob, diff_id, 0, Descriptor(MEDIA_TYPE, sha256_digest(data), len(data)))


def _described(layer: RecordedLayer | None, layers: LayerCache) -> RecordedLayer | None:
    """A layer somebody else built comes without a table of contents: if it was read meanwhile, others need not."""
    if layer is None or layer.toc is not None:
        return layer
    known = _with_toc(layer.descriptor, layer.diff_id, layers)
    return replace(layer, toc=known.toc) if known else layer


def _tocs(records: Sequence[CacheRecord], layers: LayerCache) -> dict[Digest, bytes]:
    recorded = [layer for record in records for layer in (*record.base, record.layer) if layer and layer.toc]
    found = {layer.toc.digest: layers.toc_bytes(layer.diff_id) for layer in recorded if layer.toc}
    return {digest: data for digest, data in found.items() if data is not None}


def _with(repositories: tuple[str, ...], repository: str) -> tuple[str, ...]:
    return (repository, *repositories)
