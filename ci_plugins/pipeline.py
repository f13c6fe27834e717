"""The run on one page: read → plan → build → push. The only place that wires backends."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from ci_plugins.build.chain import KnownLayer
from ci_plugins.build.executor import BuiltImage, execute
from ci_plugins.build.halt import Halt
from ci_plugins.build.layers import LayerWriter
from ci_plugins.build.prepare import (
    MoreRecords,
    Preparation,
    Prepared,
    checked_platform,
    created_at,
    dockerfile_path,
    scopes_of,
    shared_cache,
)
from ci_plugins.build.share import BuildRecords
from ci_plugins.build.stage import Workshop, send_known
from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.open import open_chain, open_store
from ci_plugins.cache.record import CacheRecord
from ci_plugins.context import Context, KnownDigests
from ci_plugins.engine.protocol import Engine
from ci_plugins.errors import Interrupted
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import Compression
from ci_plugins.mounts.listing import Limits
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.open import open_chunks
from ci_plugins.oci import Descriptor, Digest, Manifest, Platform
from ci_plugins.options.settings import BuildOptions
from ci_plugins.plan.planner import Plan
from ci_plugins.plan.steps import RunWork
from ci_plugins.sandbox.network_profile import NetworkProfile, host_proxies
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.registry import RegistryClient, RegistryDestination, RegistryOrigin, Retry
from ci_plugins.transfer.bases import BaseImages
from ci_plugins.transfer.pull import LayerFetcher
from ci_plugins.transfer.push import Push, Target
from ci_plugins.transfer.rates import load_rates, save_rates
from ci_plugins.transfer.stored import BlobLost, StoredBlob
from ci_plugins.transfer.workers import Workers

#: how often a build begins again because something in the state directory turned out to be damaged
_FRESH_STARTS = 5
#: seconds that threads have to notice the end of the build, before they are left behind
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class BuildResult:
    """`manifest` names the image; `tags` are the references that now point to it, `outputs` what else was written."""

    manifest: Descriptor
    config_digest: Digest
    tags: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def digest(self) -> Digest:
        return self.manifest.digest


def build(options: BuildOptions, recorder: Recorder) -> BuildResult:
    """Build, and push while building. Raises CiPluginsError; whatever happens, nothing stays mounted and no tag moves
    before everything under it is in place."""
    platform = checked_platform(options)
    names = [str(tag) for tag in options.tags]
    with recorder.span("build", ", ".join(names) or str(options.context), platform=str(platform)) as span:
        lost: set[Digest] = set()
        for attempt in range(_FRESH_STARTS + 1):
            try:
                with ExitStack() as stack:
                    return _Build(options, recorder, span, platform, stack, lost).run()
            except BlobLost as error:
                if attempt == _FRESH_STARTS:
                    raise
                recorder.warn(f"{error.message}; the build begins again without it")
                lost.add(error.digest)
        raise AssertionError("the last attempt returns or raises")


class _Build:
    """One build: the backends it uses, and the order in which it uses them."""

    def __init__(
        self,
        options: BuildOptions,
        recorder: Recorder,
        span: ActiveSpan,
        platform: Platform,
        stack: ExitStack,
        lost: set[Digest],
    ) -> None:
        #: blobs that records promise and nobody has
        self.lost = lost
        self.options, self.recorder, self.span, self.platform, self.stack = options, recorder, span, platform, stack
        self.halt = Halt(self._halted)
        self.budget = MemoryBudget(options.memory_budget)
        self.store = LocalStore(options.state)
        self.layers = LayerCache(options.state)
        stack.callback(self.layers.close)
        self.client = cache(self._client)
        self.origin = RegistryOrigin(self.client)
        self.cache = self._open_cache()
        stack.callback(self.cache.close)
        self.rates = load_rates(options.state / "rates.json")
        self.scopes = scopes_of(options)
        #: records of base images, by manifest
        self.roots: Mapping[Digest, CacheRecord] = {}
        self.fetches, self.uploads = Workers("fetch", 6), Workers("upload", 8)
        self.streams = ThreadPoolExecutor(4, thread_name_prefix="layer")
        stack.callback(self._end)
        self.fetcher = LayerFetcher(
            self.store,
            self.layers,
            self.origin,
            recorder,
            self.fetches,
            span,
            stop=self.halt.event,
            tocs=self.cache.tocs,
        )
        self.records = BuildRecords(
            options, self.cache, self.layers, self.fetcher, self.client, self.uploads, recorder, span, self.halt.event
        )
        self.explaining: Future[None] | None = None
        self.mounts = self._cache_mounts()
        self.known = KnownDigests(options.state / "context.sqlite")
        self.context = cache(lambda: Context.open(options.context, dockerfile_path(options), self.known))

    def run(self) -> BuildResult:
        try:
            manifest = self._run()
        except BaseException as error:
            self.halt.because(error)
            raise
        tags = tuple(str(tag) for tag in self.options.tags) if self.options.push else ()
        return BuildResult(manifest.descriptor, manifest.config.digest, tags, tuple(map(str, self.options.outputs)))

    def _run(self) -> Manifest:
        push = self._push()
        with self.recorder.span("plan", "plan", self.span) as span:
            plan = self._plan()
            span.set(steps=sum(len(planned.stage.steps) for planned in plan.stages))
        image = execute(plan, self._workshop(plan), None if plan.executes_nothing else push, self.options.labels)
        if self.context.cache_info().currsize:
            self.context().check_unchanged()
        manifest = self._store_image(image)
        learning = self.fetches.submit(self._learn)
        if push is not None:
            self._publish(push, plan, image, manifest)
        self.streams.shutdown()  # a layer is used as soon as it is written; its record is made a moment later
        self.records.remember(plan, self.roots, manifest)
        self._explained()
        learning.result()
        for losses in self.cache.losses:
            self.recorder.warn(str(losses))
        self.mounts.save(self.span, self.halt.event)
        return manifest

    # -- the end ----------------------------------------------------------------------------------------------------

    def _halted(self, reason: BaseException) -> None:
        """Nobody waits for a network any more. Layers are written to their end: what is finished is not done again.
        Unless somebody wants to go home."""
        self.fetches.abandon(reason)
        self.uploads.abandon(reason)
        if isinstance(reason, Interrupted) or not isinstance(reason, Exception):
            self.budget.refuse(reason)

    def _end(self) -> None:
        try:
            self.streams.shutdown()
        except BaseException as error:
            self.budget.refuse(error)
            self.streams.shutdown()
            raise
        finally:
            self.halt.because(Interrupted("the build has ended"))
            for workers in (self.fetches, self.uploads):
                workers.join(_GRACE)

    # -- plan -------------------------------------------------------------------------------------------------------

    def _plan(self) -> Plan:
        bases = BaseImages(self.origin, self.store, self.platform, self.recorder, self.fetches, self.span)
        preparation = Preparation(
            options=self.options,
            platform=self.platform,
            recorder=self.recorder,
            span=self.span,
            cache=self.cache,
            bases=bases,
            context=self.context,
            rates=self.rates,
            usable=self._usable,
            at_hand=self._at_hand,
            more=self._built_elsewhere() if self.options.trust_foreign else None,
        )
        prepared = preparation.prepare()
        self.roots = prepared.roots
        self.explaining = self.fetches.submit(self._explain, preparation, prepared)
        return prepared.plan

    def _built_elsewhere(self) -> MoreRecords:
        from ci_plugins.foreign.reuse import BuiltElsewhere  # few builds need it, and all would wait for it

        place = self.options.cache_scope, self.platform, self.fetcher, self.context, self.client
        return BuiltElsewhere(self.cache, *place, self.recorder, self.span).records

    def _explain(self, preparation: Preparation, prepared: Prepared) -> None:
        """Beside the build: it asks the cache, which may be far away, and nothing waits for it."""
        with self.recorder.span("explain", "explain", self.span) as span:
            explanation = preparation.explain(prepared, preparation.past())
            span.set(headline=explanation.headline(), **{str(key): why for key, why in explanation.causes().items()})

    def _explained(self) -> None:
        """The explanation is not worth waiting for long, and no reason to fail."""
        if self.explaining is None:
            return
        wait([self.explaining], _GRACE)
        if self.explaining.done() and (error := self.explaining.exception()):
            self.recorder.warn(f"why steps were run is not known: {error}")

    def _usable(self, record: CacheRecord) -> bool:
        if record.layer is None:
            return True
        return record.layer.descriptor.digest not in self.lost and (self._at_hand(record) or bool(record.repositories))

    def _at_hand(self, record: CacheRecord) -> bool:
        return record.layer is None or self.store.has(record.layer.descriptor)

    # -- the cache: it may fail, the build may not ------------------------------------------------------------------

    def _open_cache(self) -> ChainedStore:
        url = shared_cache(self.options)
        shared = open_store(url, self.client) if url else None
        return open_chain(self.options.state / "index.sqlite", shared, self.recorder.warn)

    def _learn(self) -> None:
        """Beside the push: it waits for a disk."""
        try:
            save_rates(self.options.state / "rates.json", self.rates, self.recorder.spans())
            self.known.save()
        except (OSError, sqlite3.Error) as error:
            self.recorder.warn(f"what the next build could know is not noted: {error}")

    def _cache_mounts(self) -> MountManager:
        options, remote = self.options, None
        if options.cache_mounts == "shared":
            pushed = next(iter(options.tags), None) if options.push else None
            remote = open_chunks(options.cache, pushed, self.client)
            if remote is None:
                self.recorder.warn("--cache-mounts shared: neither --cache nor --push names a place; they stay here")
        return MountManager(
            options.state / "mounts",
            options.cache_mounts,
            self.recorder,
            limits=Limits(options.cache_mounts_max_size, options.cache_mounts_expire * 86400.0),
            remote=remote,
            scopes=self.scopes,
        )

    # -- build ------------------------------------------------------------------------------------------------------

    def _workshop(self, plan: Plan) -> Workshop:
        engine = cache(self._engine)
        if any(isinstance(step.work, RunWork) for planned in plan.stages for step in planned.executed):
            engine()  # where it cannot work, say so before anything is fetched
        writer = LayerWriter(
            store=self.store,
            layers=self.layers,
            compression=Compression(self.options.compression, self.options.compression_level),
            budget=self.budget,
            pool=self.streams,
            recorder=self.recorder,
        )
        return Workshop(
            engine=engine,
            writer=writer,
            layers=self.layers,
            fetcher=self.fetcher,
            mounts=self.mounts,
            recorder=self.recorder,
            parent=self.span,
            context=self.context,
            profile=NetworkProfile(self.options.ca_certificates, {**host_proxies(os.environ), **self.options.run_env}),
            halt=self.halt,
            roots=self.roots,
            record=self.records.add,
            created=partial(created_at, self.options.build_args),
        )

    def _engine(self) -> Engine:
        from ci_plugins.engine.native import NativeEngine  # a build that runs nothing does not wait for it

        return NativeEngine(self.options.state / "scratch")

    def _store_image(self, image: BuiltImage) -> Manifest:
        config = image.config.descriptor()
        manifest = Manifest.of(config, image.layers)
        self.store.put(image.config.to_bytes(), config)
        self.store.put(manifest.raw, manifest.descriptor)
        return manifest

    # -- push -------------------------------------------------------------------------------------------------------

    def _push(self) -> Push | None:
        targets = [self._layout(output.path) for output in self.options.outputs]
        if self.options.push:
            by_repository: dict[tuple[str, str], list[str]] = {}
            for tag in self.options.tags:
                by_repository.setdefault((tag.registry, tag.repository), []).append(tag.tag)
            for (registry, repository), tags in by_repository.items():
                targets.append(Target(RegistryDestination(self.client(registry), repository), tuple(tags)))
        if not targets:
            return None
        return Push(targets, self.recorder, self.uploads, failed=self.halt.because, abandoned=self.halt.event)

    def _publish(self, push: Push, plan: Plan, image: BuiltImage, manifest: Manifest) -> None:
        if plan.executes_nothing:
            if push.up_to_date(manifest):
                return
            for layer in image.chain.layers:
                if isinstance(layer, KnownLayer):
                    send_known(push, layer, self.span)
        push.finish(manifest, StoredBlob(self.store, manifest.config), self.span)

    def _layout(self, path: Path) -> Target:
        from ci_plugins.storage.oci_layout import OciLayout  # only where there is one

        return Target(OciLayout(path), tuple(dict.fromkeys(tag.tag for tag in self.options.tags)) or ("latest",))

    def _client(self, registry: str) -> RegistryClient:
        insecure = frozenset(self.options.insecure_registries)
        client = RegistryClient(
            registry,
            insecure=insecure,
            on_retry=self._retried,
        )
        self.stack.callback(client.close)
        return client

    def _retried(self, retry: Retry) -> None:
        if retry.delay:  # without a delay it is another way to do the same, not a fault
            self.recorder.warn(f"{retry.error}; trying again in {retry.delay:.1f} s")
