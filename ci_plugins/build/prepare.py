"""What is known before anything runs: steps, their keys and records, the plan. `build` and `plan` share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.dockerfile.predefined import PROXY_ARGS
from ci_plugins.dockerfile.stages import load_dockerfile
from ci_plugins.errors import PlatformNotAvailable, UsageError
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.copy import FileTree
from ci_plugins.oci import Digest, Platform
from ci_plugins.options.settings import BuildOptions
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.explain import Explanation, explain
from ci_plugins.plan.keys import base_key
from ci_plugins.plan.past import Past
from ci_plugins.plan.planner import Plan, make_plan
from ci_plugins.plan.steps import Stage
from ci_plugins.plan.weigh import Choice, Rates, Weigher
from ci_plugins.transfer.bases import BaseImages

#: (stages, records by key, which are usable, those of base images by manifest) → those records and more
MoreRecords = Callable[
    [Sequence[Stage], Mapping[Digest, CacheRecord], Callable[[CacheRecord], bool], Mapping[Digest, CacheRecord]],
    Mapping[Digest, CacheRecord],
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """`records` are all that were found, by key, usable or not; `roots` those of base images, by manifest. `stages` are
    all that were evaluated, also those the plan does not need."""

    plan: Plan
    stages: tuple[Stage, ...]
    records: Mapping[Digest, CacheRecord]
    roots: Mapping[Digest, CacheRecord]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What planning needs. `usable` and `at_hand` say whether a record's layer can be had at all, and had here."""

    options: BuildOptions
    platform: Platform
    recorder: Recorder
    span: ActiveSpan
    cache: CacheStore
    bases: BaseImages
    context: Callable[[], FileTree]
    rates: Rates
    usable: Callable[[CacheRecord], bool]
    at_hand: Callable[[CacheRecord], bool]
    more: MoreRecords | None = None

    def prepare(self) -> Prepared:
        target, stages = self._evaluate()
        records, roots = self._lookup(stages)
        weigher = Weigher(self.options.prefer, self.rates, self.at_hand)
        if self.options.no_cache:
            plan = make_plan(stages, target, {}, self.usable, weigher)
        else:
            records = self.more(stages, records, self.usable, roots) if self.more else records
            plan = make_plan(stages, target, records, self.usable, weigher)
        return Prepared(plan, tuple(stages), records, roots, tuple(weigher.choices))

    def past(self) -> Past:
        return Past(self.cache, scopes_of(self.options), image_names(self.options))

    def explain(self, prepared: Prepared, past: Past) -> Explanation:
        """Why what is not reused is not: looks at earlier builds, if there is anything to explain."""
        return explain(prepared.plan, prepared.records, past, prepared.choices, no_cache=self.options.no_cache)

    def _evaluate(self) -> tuple[Stage, Sequence[Stage]]:
        options = self.options
        dockerfile = load_dockerfile(dockerfile_path(options))
        inputs = Inputs(
            platform=self.platform,
            target=options.target,
            build_args=options.build_args,
            network=options.network,
            image=self.bases.resolve,
            context=self.context,
        )
        evaluator = Evaluator(dockerfile, inputs)
        parsed = dockerfile.target(options.target)
        self.bases.prefetch(evaluator.images_of(parsed))
        target = evaluator.stage(parsed)
        if unused := [name for name in options.build_args if name not in evaluator.consumed.union(PROXY_ARGS)]:
            self.recorder.warn(f"--build-arg {', '.join(unused)}: no ARG of this name, the value is not used")
        return target, evaluator.evaluated()

    def _lookup(self, stages: Sequence[Stage]) -> tuple[Mapping[Digest, CacheRecord], Mapping[Digest, CacheRecord]]:
        """Records of all steps and of all base images, in one go."""
        bases = {base_key(self.platform, base.digest): base for stage in stages for base in stage.images()}
        keys = [step.key for stage in stages for step in stage.steps]
        own, *others = scopes = scopes_of(self.options)
        with self.recorder.span("cache", "look up", self.span, keys=len(bases) + len(keys)) as span:
            span.set(scope=own, reads="\n".join(others), scope_origin=self.options.scope_origin)
            records = self.cache.lookup([*bases, *keys], scopes)
            span.set(found=len(records))
        return records, {base.digest: records[key] for key, base in bases.items() if key in records}


def dockerfile_path(options: BuildOptions) -> Path:
    return options.file or options.context / "Dockerfile"


def scopes_of(options: BuildOptions) -> tuple[str, ...]:
    """The scopes a build reads, its own first."""
    return (options.cache_scope, *options.cache_read)


def image_names(options: BuildOptions) -> tuple[str, ...]:
    """What an image is remembered as: its tags, or where it came from."""
    place = str(options.context.resolve()) + (f" {options.target}" if options.target else "")
    return tuple(str(tag) for tag in options.tags) or (place,)


def shared_cache(options: BuildOptions) -> str:
    """URL of the index shared with other runners; empty for none."""
    if options.cache != "auto":
        return "" if options.cache == "off" else options.cache
    first = next(iter(options.tags), None) if options.push else None
    return f"registry://{first.registry}/{first.repository}" if first else ""


def checked_platform(options: BuildOptions) -> Platform:
    """Raises PlatformNotAvailable."""
    host = Platform.of_host()
    if options.platform not in (None, host):
        raise PlatformNotAvailable(
            f"--platform {options.platform}: this machine builds {host} only",
            remedy=f"Leave --platform out, or run the build on a {options.platform} machine.",
        )
    return host


def created_at(build_args: Mapping[str, str]) -> str:
    """Now, or what the build argument SOURCE_DATE_EPOCH says (reproducible-builds.org), as RFC 3339."""
    epoch = build_args.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    try:
        return datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--build-arg SOURCE_DATE_EPOCH={epoch}: not a time", remedy="Give it in whole seconds since 1970."
        ) from error
