"""The critical path: what the end of the build waited for, found by walking backwards from the end.

At every point the walk asks what had to be finished before this could go on. Where the spans say so (an upload waits
for its layer, a layer for its step) that is used; elsewhere it is whatever finished last before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ci_plugins.events import Span
from ci_plugins.report.text import clean
from ci_plugins.report.timeline import Step, Wait

#: seconds by which clocks read in different threads may disagree about "before"
_SLACK = 0.002


@dataclass(frozen=True, slots=True)
class _Work:
    kind: str
    name: str
    start: float
    end: float
    #: span id of the step it belongs to
    step: int | None


def critical_path(spans: Sequence[Span], steps: Sequence[Step], start: float, end: float) -> tuple[Wait, ...]:
    """In order of time, without gaps: what belongs to no span is called "other"."""
    work = list(_work(spans, steps))
    waits: list[Wait] = []
    now, current = end, _last_before(work, end)
    while current and now > start:
        if current.end < now - _SLACK:
            waits.append(Wait("other", "", current.end, now))
        now = min(now, current.end)
        previous = _before(current, work)
        # what streams into this one counts until it ended, this one only after that
        begins = min(now, max(current.start, previous.end if previous else current.start, start))
        if now > begins:
            waits.append(Wait(current.kind, current.name, begins, now))
        now = begins
        work = [each for each in work if each is not current]
        current = previous or _last_before(work, now)
    if now > start + _SLACK:
        waits.append(Wait("other", "", start, now))
    return tuple(reversed(waits))


def _work(spans: Sequence[Span], steps: Sequence[Step]) -> Iterator[_Work]:
    titles = {step.id: step.title for step in steps}
    for step in steps:
        yield _Work("step", step.title, step.start, step.end, step.id)
    for span in spans:
        if span.kind in ("plan", "resolve", "download", "extract", "layer", "upload", "manifest", "mount"):
            step_id = span.parent if span.parent in titles else None
            name = titles[step_id] if step_id is not None else clean(span.name)
            yield _Work(span.kind, name, span.start, span.end, step_id)


def _before(current: _Work, work: Sequence[_Work]) -> _Work | None:
    """What this had to wait for by what it is; None where the spans do not tell."""
    needs = {"upload": ("layer", "step"), "layer": ("step",)}.get(current.kind, ())
    for kind in needs if current.step is not None else ():
        found = [each for each in work if each.kind == kind and each.step == current.step]
        if found and found[0].start <= current.start + _SLACK and found[0].end <= current.end + _SLACK:
            return found[0]
    return None


def _last_before(work: Sequence[_Work], moment: float) -> _Work | None:
    finished = [each for each in work if each.end <= moment + _SLACK and each.end > each.start]
    return max(finished, key=lambda each: (each.end, each.start), default=None)
