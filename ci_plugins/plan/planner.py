"""The plan: which steps are reused, which are executed, and which stages are needed at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.cache.record import CacheRecord
from ci_plugins.oci import Digest
from ci_plugins.plan.steps import CopyWork, RunWork, Stage, Step


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that has to be walked: its first `len(records)` steps are reused, the others executed.

    `files_until`: the layers of that many leading steps are needed as files on this machine, because a RUN stands on
    them or a COPY --from reads them; `base_files`: so are the layers the stage stands on.
    """

    stage: Stage
    records: tuple[CacheRecord, ...]
    files_until: int
    base_files: bool

    @property
    def reused(self) -> Sequence[Step]:
        return self.stage.steps[: len(self.records)]

    @property
    def executed(self) -> Sequence[Step]:
        return self.stage.steps[len(self.records) :]


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in an order in which they can be built."""

    stages: tuple[PlannedStage, ...]
    target: PlannedStage

    @property
    def executes_nothing(self) -> bool:
        return not any(planned.executed for planned in self.stages)


def make_plan(
    stages: Sequence[Stage],
    target: Stage,
    records: Mapping[Digest, CacheRecord],
    usable: Callable[[CacheRecord], bool],
) -> Plan:
    """Decide for every step.

    `stages` in ascending order of their index. A step is reused if it and all steps before it have a usable record:
    a later record alone is not enough, for its layer was made on top of files that would now be made again.
    """
    by_index = {stage.index: stage for stage in stages}
    reused: dict[int, tuple[CacheRecord, ...]] = {}
    for stage in stages:
        reused[stage.index] = _leading_hits(stage, by_index, reused, records, usable)
    needed = _needed(target, by_index, reused)
    files = _files(needed, reused)
    planned = tuple(
        PlannedStage(stage, reused[stage.index], *files[stage.index]) for stage in stages if stage.index in needed
    )
    return Plan(planned, next(item for item in planned if item.stage.index == target.index))


def _leading_hits(
    stage: Stage,
    by_index: Mapping[int, Stage],
    reused: Mapping[int, tuple[CacheRecord, ...]],
    records: Mapping[Digest, CacheRecord],
    usable: Callable[[CacheRecord], bool],
) -> tuple[CacheRecord, ...]:
    if isinstance(stage.base, int) and len(reused[stage.base]) < len(by_index[stage.base].steps):
        return ()
    hits: list[CacheRecord] = []
    for step in stage.steps:
        record = records.get(step.key)
        if record is None or not usable(record):
            break
        hits.append(record)
    return tuple(hits)


def _needed(
    target: Stage, by_index: Mapping[int, Stage], reused: Mapping[int, tuple[CacheRecord, ...]]
) -> dict[int, Stage]:
    """The target, the stages it stands on, and those an executed step copies from; transitively."""
    needed: dict[int, Stage] = {}
    waiting = [target]
    while waiting:
        stage = waiting.pop()
        if stage.index in needed:
            continue
        needed[stage.index] = stage
        executed = [step.work for step in stage.steps[len(reused[stage.index]) :]]
        origins = [stage.base, *(work.origin for work in executed if isinstance(work, CopyWork))]
        waiting.extend(by_index[origin] for origin in origins if isinstance(origin, int))
    return needed


def _files(needed: Mapping[int, Stage], reused: Mapping[int, tuple[CacheRecord, ...]]) -> dict[int, tuple[int, bool]]:
    """stage index → (files_until, base_files). Later stages are looked at first: they ask for what they stand on."""
    whole: set[int] = set()  # stages all of whose layers are wanted as files
    result: dict[int, tuple[int, bool]] = {}
    for index in sorted(needed, reverse=True):
        stage = needed[index]
        first = len(reused[index])
        runs = [n for n, step in enumerate(stage.steps) if n >= first and isinstance(step.work, RunWork)]
        wanted = index in whole
        until = len(stage.steps) if wanted else runs[-1] if runs else 0
        result[index] = (until, wanted or bool(runs))
        if isinstance(stage.base, int) and (wanted or runs):
            whole.add(stage.base)
        for step in stage.steps[first:]:
            if isinstance(step.work, CopyWork) and isinstance(step.work.origin, int):
                whole.add(step.work.origin)
    return result
