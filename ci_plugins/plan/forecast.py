"""What a plan would cost: layers to fetch, and seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ci_plugins.cache.record import CacheRecord
from ci_plugins.oci import Descriptor, Digest, chain_id
from ci_plugins.plan.explain import ExplainedStep
from ci_plugins.plan.planner import Plan, PlannedStage
from ci_plugins.plan.steps import BaseImage, CopyWork
from ci_plugins.plan.weigh import Choice, Rates

#: files: a RUN stands on them. copied: a COPY --from may read some of them. contents: the layer is read for the list of
#: its files, nothing is unpacked.
Purpose = Literal["files", "copied", "contents"]
_ORDER: tuple[Purpose, ...] = ("files", "copied", "contents")


@dataclass(frozen=True, slots=True)
class Fetch:
    """A layer that is not on this machine and that the build would ask for. `certain` is False where the plan cannot
    tell: a COPY --from fetches only the layers that hold what it names."""

    blob: Descriptor
    #: bytes of the uncompressed tar, 0 where nobody knows
    uncompressed: int
    source: str
    purpose: Purpose

    @property
    def certain(self) -> bool:
        return self.purpose != "copied"


@dataclass(frozen=True, slots=True)
class Forecast:
    """`run_seconds` is None if a step that has to be executed was never executed before: nobody knows. `unknown` are
    those. Stages run side by side and fetches overlap, so the sum is an upper bound."""

    fetches: tuple[Fetch, ...]
    fetch_seconds: float
    run_seconds: float
    unknown: tuple[ExplainedStep, ...]
    choices: tuple[Choice, ...]

    @property
    def fetch_bytes(self) -> int:
        return sum(fetch.blob.size for fetch in self.fetches)


@dataclass(frozen=True, slots=True)
class AtHand:
    """What is on this machine: blobs, snapshots by ChainID, tables of contents by DiffID, or in the shared store."""

    blob: Callable[[Descriptor], bool]
    snapshot: Callable[[Digest], bool]
    contents: Callable[[Digest], bool]


def forecast(
    plan: Plan,
    steps: Iterable[ExplainedStep],
    at_hand: AtHand,
    rates: Rates,
    earlier_seconds: Callable[[ExplainedStep], float | None],
    choices: Iterable[Choice] = (),
) -> Forecast:
    """`earlier_seconds`: how long an executed step took the last time, None if it never ran."""
    found: dict[Digest, Fetch] = {}
    for fetch in (fetch for planned in plan.stages for fetch in _fetches(plan, planned, at_hand)):
        known = found.get(fetch.blob.digest)
        if known is None or _ORDER.index(fetch.purpose) < _ORDER.index(known.purpose):
            found[fetch.blob.digest] = fetch
    executed = [step for step in steps if step.action != "reuse" and step.step.number]
    times = [(step, earlier_seconds(step)) for step in executed]
    certain = [fetch for fetch in found.values() if fetch.certain]
    return Forecast(
        tuple(found.values()),
        rates.seconds(
            sum(fetch.blob.size for fetch in certain),
            sum(fetch.uncompressed for fetch in certain if fetch.purpose == "files"),
        ),
        sum(seconds for _, seconds in times if seconds is not None),
        tuple(step for step, seconds in times if seconds is None),
        tuple(choices),
    )


def _fetches(plan: Plan, planned: PlannedStage, at_hand: AtHand) -> Iterator[Fetch]:
    base = planned.stage.base
    chain: Digest | None = _chain_below(plan, planned)
    if isinstance(base, BaseImage):
        purpose = _purpose(planned.run_on_base, _is_copied_from(plan, planned), _writes(planned))
        yield from _of_image(base, at_hand, purpose)
    for position, record in enumerate(planned.records):
        if record.layer is None:
            continue
        chain = chain_id(chain, record.layer.diff_id)
        purpose = _purpose(position < planned.run_until, position < planned.keep_until, _writes(planned))
        if purpose and not _is_here(purpose, record.layer.descriptor, chain, record.layer.diff_id, at_hand):
            yield Fetch(record.layer.descriptor, record.layer.size, _place(record), purpose)
    for step in planned.executed:
        if isinstance(step.work, CopyWork) and isinstance(step.work.origin, BaseImage):
            yield from _of_image(step.work.origin, at_hand, "copied")


def _of_image(image: BaseImage, at_hand: AtHand, purpose: Purpose | None) -> Iterator[Fetch]:
    chain: Digest | None = None
    for blob, diff_id in image.layers:
        chain = chain_id(chain, diff_id)
        if purpose and not _is_here(purpose, blob, chain, diff_id, at_hand):
            yield Fetch(blob, 0, image.name, purpose)


def _purpose(run: bool, read: bool, listed: bool) -> Purpose | None:
    return "files" if run else "copied" if read else "contents" if listed else None


def _is_here(purpose: Purpose, blob: Descriptor, chain: Digest, diff_id: Digest, at_hand: AtHand) -> bool:
    if purpose == "contents":
        return at_hand.contents(diff_id) or at_hand.blob(blob)
    return at_hand.snapshot(chain) or at_hand.blob(blob)


def _writes(planned: PlannedStage) -> bool:
    """Whether a step is executed that asks what is below it."""
    return any(step.work for step in planned.executed)


def _is_copied_from(plan: Plan, planned: PlannedStage) -> bool:
    return any(
        isinstance(step.work, CopyWork) and step.work.origin == planned.stage.index
        for other in plan.stages
        for step in other.executed
    )


def _chain_below(plan: Plan, planned: PlannedStage) -> Digest | None:
    """The ChainID a stage begins with; of reused layers only, which are all that can be here already."""
    base = planned.stage.base
    chain: Digest | None = None
    if isinstance(base, BaseImage):
        for _, diff_id in base.layers:
            chain = chain_id(chain, diff_id)
    elif base is not None:
        below = next(other for other in plan.stages if other.stage.index == base)
        chain = _chain_below(plan, below)
        for record in below.records:
            chain = chain_id(chain, record.layer.diff_id) if record.layer else chain
    return chain


def _place(record: CacheRecord) -> str:
    return record.repositories[0] if record.repositories else "nowhere"
