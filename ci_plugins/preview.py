"""`ci-plugins plan`: all that a build does before its first step, and what it would do then. Nothing is written."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ci_plugins.build.prepare import (
    Preparation,
    Prepared,
    checked_platform,
    dockerfile_path,
    image_names,
    shared_cache,
)
from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.layers import LayerCache
from ci_plugins.cache.open import open_store
from ci_plugins.cache.read_only import ReadOnlyStore
from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheUnavailable
from ci_plugins.context import Context, KnownDigests
from ci_plugins.errors import Interrupted
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.foreign.reuse import BuiltElsewhere
from ci_plugins.layer.copy import FileTree
from ci_plugins.oci import Digest, Platform
from ci_plugins.options.settings import BuildOptions
from ci_plugins.plan.explain import ExplainedStep, Explanation
from ci_plugins.plan.forecast import AtHand, Forecast, forecast
from ci_plugins.plan.past import earlier_records
from ci_plugins.report.scopes import Scopes
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.registry import RegistryClient, RegistryOrigin
from ci_plugins.transfer.bases import BaseImages
from ci_plugins.transfer.pull import LayerFetcher
from ci_plugins.transfer.rates import load_rates
from ci_plugins.transfer.workers import Workers

#: seconds that threads have to notice the end, before they are left behind
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Planned:
    """`names`: the image's; `left_out`: stages that nothing needs; `scopes` are the cache's that were read; `warnings`
    what went wrong on the way."""

    names: tuple[str, ...]
    platform: str
    explanation: Explanation
    forecast: Forecast
    left_out: tuple[str, ...]
    prefer: str
    scopes: Scopes
    warnings: tuple[str, ...]


def plan(options: BuildOptions, recorder: Recorder) -> Planned:
    """Raises CiPluginsError. Fetches manifests and configs of base images, and asks the cache."""
    checked_platform(options)
    with ExitStack() as stack:
        span = stack.enter_context(recorder.span("plan", str(options.context)))
        return _Preview(options, recorder, span, stack).run()


class _Preview:
    def __init__(self, options: BuildOptions, recorder: Recorder, span: ActiveSpan, stack: ExitStack) -> None:
        self.options, self.recorder, self.span, self.stack = options, recorder, span, stack
        scratch = self.scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ci-plugins-plan-")))
        state = options.state if options.state.is_dir() else scratch
        self.client = cache(self._client)
        self.configs, self.store = LocalStore(scratch / "configs"), LocalStore(state)
        self.layers = LayerCache(state)
        stack.callback(self.layers.close)
        self.index = state / "index.sqlite"
        self.rates = load_rates(state / "rates.json")
        self.cache = self._open_cache()
        stack.callback(self.cache.close)
        self.fetches = Workers("fetch", 6)
        stack.callback(self._end)

    def run(self) -> Planned:
        platform = checked_platform(self.options)
        known = KnownDigests(self.options.state / "context.sqlite")
        context = cache(lambda: Context.open(self.options.context, dockerfile_path(self.options), known))
        preparation = Preparation(
            options=self.options,
            platform=platform,
            recorder=self.recorder,
            span=self.span,
            cache=self.cache,
            bases=BaseImages(
                RegistryOrigin(self.client), self.configs, platform, self.recorder, self.fetches, self.span
            ),
            context=context,
            rates=self.rates,
            usable=lambda record: self._at_hand(record) or bool(record.repositories),
            at_hand=self._at_hand,
            more=self._built_elsewhere(platform, context).records if self.options.trust_foreign else None,
        )
        prepared, past = preparation.prepare(), preparation.past()
        explanation = preparation.explain(prepared, past)
        earlier = earlier_records(prepared.plan, past)

        def last_time(step: ExplainedStep) -> float | None:
            record = prepared.records.get(step.step.key) or earlier.get(step.step.key)
            return record.seconds if record else None

        return Planned(
            image_names(self.options),
            str(platform),
            explanation,
            forecast(
                prepared.plan,
                explanation.steps,
                self._here(prepared),
                self.rates,
                last_time,
                prepared.choices,
            ),
            _left_out(prepared),
            self.options.prefer,
            Scopes(self.options.cache_scope, self.options.cache_read, self.options.scope_origin),
            self.recorder.warnings(),
        )

    def _here(self, prepared: Prepared) -> AtHand:
        records = (*prepared.records.values(), *prepared.roots.values())
        shared = {layer.diff_id for record in records for layer in (*record.base, record.layer) if layer and layer.toc}
        return AtHand(
            blob=self.store.has,
            snapshot=self.layers.has_snapshot,
            contents=lambda diff_id: diff_id in shared or self.layers.toc(diff_id) is not None,
        )

    def _built_elsewhere(self, platform: Platform, context: Callable[[], FileTree]) -> BuiltElsewhere:
        """Layers that have to be looked into are read to a place that is gone afterwards."""
        fetcher = LayerFetcher(
            self.configs,
            LayerCache(self.scratch / "layers"),
            RegistryOrigin(self.client),
            self.recorder,
            self.fetches,
            self.span,
            stop=threading.Event(),
            tocs=self.cache.tocs,
        )
        place = self.options.cache_scope, platform, fetcher, context, self.client
        return BuiltElsewhere(self.cache, *place, self.recorder, self.span)

    def _at_hand(self, record: CacheRecord) -> bool:
        return record.layer is None or self.store.has(record.layer.descriptor)

    def _open_cache(self) -> ChainedStore:
        url = shared_cache(self.options)
        shared = open_store(url, self.client) if url else None
        local: ReadOnlyStore | None = None
        if self.index.exists():
            try:
                local = ReadOnlyStore(SqliteStore(self.index))
            except CacheUnavailable as error:
                self.recorder.warn(f"{error}; the plan is made without it")
        return ChainedStore(local, ReadOnlyStore(shared) if shared else None, self.recorder.warn)

    def _client(self, registry: str) -> RegistryClient:
        client = RegistryClient(registry, insecure=frozenset(self.options.insecure_registries))
        self.stack.callback(client.close)
        return client

    def _end(self) -> None:
        self.fetches.abandon(Interrupted("the plan is made"))
        self.fetches.join(_GRACE)


def _left_out(prepared: Prepared) -> tuple[str, ...]:
    needed: set[Digest] = {planned.stage.key for planned in prepared.plan.stages}
    return tuple(stage.name for stage in prepared.stages if stage.key not in needed)
