"""A plan in words: what happens to every step, and why the first that is not reused is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ci_plugins.cache.record import FOREIGN, CacheRecord
from ci_plugins.oci import Digest
from ci_plugins.plan.difference import Reason, base_difference, difference
from ci_plugins.plan.past import Past, earlier_steps
from ci_plugins.plan.planner import Plan, PlannedStage
from ci_plugins.plan.steps import CopyWork, RunWork, Stage, Step
from ci_plugins.plan.weigh import Choice

#: reuse: nothing is done. append: a layer or a setting is written, no files below are needed. run: a command runs.
Action = Literal["reuse", "append", "run"]

_FOLLOWS = Reason("it stands on a step that is run")


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """`reason` says why the step is not reused, or from which image that somebody else built it is; None where it is
    simply known. `cause`: the reason lies here, not below; `by_choice`: it could be reused, but running it is quicker.
    """

    stage: Stage
    step: Step
    action: Action
    record: CacheRecord | None
    reason: Reason | None = None
    cause: bool = False
    by_choice: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """All steps of the plan's stages, in their order."""

    steps: tuple[ExplainedStep, ...]

    @property
    def first_miss(self) -> ExplainedStep | None:
        """The step to look at: what was chosen was chosen because of a miss after it."""
        causes = sorted((step for step in self.steps if step.cause), key=lambda step: step.by_choice)
        return next(iter(causes), None)

    def counted(self) -> tuple[int, int]:
        """(reused, all) of the steps that do something: those with a number."""
        working = [each for each in self.steps if each.step.number]
        return sum(each.action == "reuse" for each in working), len(working)

    def headline(self) -> str:
        reused, total = self.counted()
        text = f"expected {reused} of {total} steps reused"
        if (miss := self.first_miss) is not None and miss.reason is not None:
            return f"{text}; first miss: {miss.step.title} because {miss.reason.short}"
        return text

    def causes(self) -> Mapping[Digest, str]:
        """Step key → why it is not reused, for the steps where the reason lies."""
        return {each.step.key: str(each.reason) for each in self.steps if each.cause}


def explain(
    plan: Plan,
    records: Mapping[Digest, CacheRecord],
    past: Past,
    choices: Sequence[Choice] = (),
    *,
    no_cache: bool = False,
) -> Explanation:
    """`records` are what the look-up found, usable or not; `choices` what a `Weigher` decided. Only the first miss of a
    stage costs look-ups. Raises CacheUnavailable."""
    explainer = _Explainer(plan, records, past, {choice.stage: choice for choice in choices}, no_cache)
    return Explanation(tuple(step for planned in plan.stages for step in explainer.stage(planned)))


def _built_elsewhere(record: CacheRecord) -> Reason | None:
    image = record.inputs.get(FOREIGN)
    return Reason(f"built elsewhere, from {image}") if image else None


@dataclass(frozen=True, slots=True)
class _Explainer:
    plan: Plan
    records: Mapping[Digest, CacheRecord]
    past: Past
    choices: Mapping[int, Choice]
    no_cache: bool

    def stage(self, planned: PlannedStage) -> list[ExplainedStep]:
        stage = planned.stage
        explained = [
            ExplainedStep(stage, step, "reuse", record, _built_elsewhere(record))
            for step, record in zip(planned.reused, planned.records, strict=True)
        ]
        for position, step in enumerate(planned.executed, len(planned.records)):
            reason = self._reason(planned, position, step)
            action: Action = "run" if isinstance(step.work, RunWork) else "append"
            explained.append(
                ExplainedStep(
                    stage,
                    step,
                    action,
                    self.records.get(step.key),
                    reason,
                    cause=reason is not _FOLLOWS,
                    by_choice=position < self.plan.hits[stage.index],
                )
            )
        return explained

    def _reason(self, planned: PlannedStage, position: int, step: Step) -> Reason:
        known = self.plan.hits[planned.stage.index]
        if self.no_cache:
            return Reason("of --no-cache") if position == 0 else _FOLLOWS
        if position < known:
            return _chosen(self.choices[planned.stage.index], first=position == len(planned.records))
        if position > known or self._is_executed(planned.stage.base):
            return _FOLLOWS
        if step.key in self.records:
            return Reason("its layer is gone", "the record of the step is there, its blob is not")
        return self._why(planned, position, step)

    def _is_executed(self, index: object) -> bool:
        """Whether a stage has steps that are executed."""
        return any(planned.executed for planned in self.plan.stages if planned.stage.index == index)

    def _why(self, planned: PlannedStage, position: int, step: Step) -> Reason:
        siblings = self.past.children(step.parent)
        same = [record for record in siblings if record.instruction == step.title]
        origin = step.work.origin if isinstance(step.work, CopyWork) else None
        if isinstance(origin, int) and self._is_executed(origin) and (same or not siblings):
            return Reason(f"stage {self._name(origin)} is built again")
        if same:
            return difference(same[0], step)
        if siblings:
            return self._new_text(siblings, planned.stage.steps[position:], step)
        earlier = earlier_steps(self.plan, self.past, planned.stage)
        if position == 0 and earlier and (moved := base_difference(earlier[0].inputs, step.describe())):
            return moved
        return Reason("it was never built before")

    def _new_text(self, siblings: Sequence[CacheRecord], coming: Sequence[Step], step: Step) -> Reason:
        """Other instructions stood here: was this one changed, put in between, or is one before it gone?"""
        titles = {each.title for each in coming}
        for record in siblings:
            if any(child.instruction == step.title for child in self.past.children(record.key)):
                return Reason("a step before it is gone", record.instruction)
        if any(record.instruction in titles for record in siblings):
            return Reason("it is a new step")
        alike = [record for record in siblings if _kind(record) == step.instruction.name]
        return difference(alike[0], step) if alike else Reason("it was never built before")

    def _name(self, index: int) -> str:
        return next(planned.stage.name for planned in self.plan.stages if planned.stage.index == index)


def _kind(record: CacheRecord) -> str:
    return record.instruction.partition(" ")[0].upper()


def _chosen(choice: Choice, *, first: bool) -> Reason:
    if not first:
        return _FOLLOWS
    times = f"{choice.rebuild_seconds:.1f} s to run, {choice.pull_all_seconds:.1f} s to fetch the layers"
    return Reason("running it again is preferred to fetching its layer", times)
