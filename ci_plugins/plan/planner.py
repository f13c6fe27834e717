"""The plan: which steps are reused, which are executed, and which stages and files are needed at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.cache.record import CacheRecord
from ci_plugins.oci import Digest
from ci_plugins.plan.steps import RunWork, Stage, Step, stages_read


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that has to be walked: its first `len(records)` steps are reused, the others executed.

    `run_until`: a RUN stands on the layers of that many leading steps, so their files are wanted as soon as possible;
    `run_on_base`: and on those the stage stands on. `keep_until`: the files of that many leading steps may be read,
    by a RUN or a COPY --from: what is executed anyway keeps them at hand, what is reused fetches them when asked.
    """

    stage: Stage
    records: tuple[CacheRecord, ...]
    run_until: int
    keep_until: int
    run_on_base: bool

    @property
    def reused(self) -> Sequence[Step]:
        return self.stage.steps[: len(self.records)]

    @property
    def executed(self) -> Sequence[Step]:
        return self.stage.steps[len(self.records) :]


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in an order in which they can be built. `hits`: how many leading steps of a stage have a usable record,
    also where `reuse` decided to run some of them again."""

    stages: tuple[PlannedStage, ...]
    target: PlannedStage
    hits: Mapping[int, int]

    @property
    def executes_nothing(self) -> bool:
        return not any(planned.executed for planned in self.stages)

    def ancestry(self) -> tuple[Stage, ...]:
        """The stages whose layers are the image's: the target and what it stands on, lowest first."""
        by_index = {planned.stage.index: planned.stage for planned in self.stages}
        stage = self.target.stage
        found = [stage]
        while isinstance(stage.base, int):
            stage = by_index[stage.base]
            found.insert(0, stage)
        return tuple(found)

    def path(self) -> tuple[Digest, ...]:
        """The image's path through the forest: keys from the root to the last step."""
        stages = self.ancestry()
        return (stages[0].root_key, *(step.key for stage in stages for step in stage.steps))


#: Of the leading steps of a stage that have records, how many to reuse: (stage, records) → count.
Reuse = Callable[[Stage, Sequence[CacheRecord]], int]


def make_plan(
    stages: Sequence[Stage],
    target: Stage,
    records: Mapping[Digest, CacheRecord],
    usable: Callable[[CacheRecord], bool],
    reuse: Reuse = lambda stage, records: len(records),
) -> Plan:
    """Decide for every step.

    `stages` in ascending order of their index. A step is reused if it and all steps before it have a usable record:
    a later record alone is not enough, for its layer was made on top of files that would now be made again.
    """
    by_index = {stage.index: stage for stage in stages}
    hits: dict[int, int] = {}
    reused: dict[int, tuple[CacheRecord, ...]] = {}
    for stage in stages:
        found = _leading_hits(stage, by_index, reused, records, usable)
        hits[stage.index] = len(found)
        reused[stage.index] = found[: reuse(stage, found)]
    needed = _needed(target, by_index, reused)
    files = _files(needed, reused)
    planned = tuple(
        PlannedStage(stage, reused[stage.index], *files[stage.index]) for stage in stages if stage.index in needed
    )
    return Plan(planned, next(item for item in planned if item.stage.index == target.index), hits)


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
        origins = [stage.base, *(origin for work in executed for origin in stages_read(work))]
        waiting.extend(by_index[origin] for origin in origins if isinstance(origin, int))
    return needed


def _files(
    needed: Mapping[int, Stage], reused: Mapping[int, tuple[CacheRecord, ...]]
) -> dict[int, tuple[int, int, bool]]:
    """stage index → (run_until, keep_until, run_on_base). Later stages first: they ask for what they stand on."""
    stood_on: set[int] = set()  # stages that a RUN of a later one stands on
    read: set[int] = set()  # stages that are copied from
    result: dict[int, tuple[int, int, bool]] = {}
    for index in sorted(needed, reverse=True):
        stage = needed[index]
        first, last = len(reused[index]), len(stage.steps)
        runs = [n for n, step in enumerate(stage.steps) if n >= first and isinstance(step.work, RunWork)]
        run_until = last if index in stood_on else runs[-1] if runs else 0
        run_on_base = index in stood_on or bool(runs)
        result[index] = (run_until, last if index in read else run_until, run_on_base)
        if isinstance(stage.base, int):
            stood_on |= {stage.base} if run_on_base else set()
            read |= {stage.base} if index in read else set()
        for step in stage.steps[first:]:
            read.update(stages_read(step.work))
    return result
