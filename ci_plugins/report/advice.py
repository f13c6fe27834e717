"""What it would take to be faster: at most two sentences computed from the figures, none where there is no point."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ci_plugins.report.text import percent, seconds, shorten, size
from ci_plugins.report.timeline import Step, Timeline

#: seconds below which nobody would change anything
_WORTH_IT = 1.0
_TITLE = 60


def advice(timeline: Timeline) -> tuple[str, ...]:
    if not timeline.succeeded or timeline.total_seconds < _WORTH_IT:
        return ()
    return tuple(islice(_sentences(timeline), 2))


def _sentences(timeline: Timeline) -> Iterator[str]:
    yield from _order(timeline)
    yield from _tail(timeline)
    yield from _longest(timeline)


def _order(timeline: Timeline) -> Iterator[str]:
    """Reused steps, then a COPY that changed, then RUN steps that only ran because of it."""
    for stage in dict.fromkeys(step.stage for step in timeline.steps):
        steps = [step for step in timeline.steps if step.stage == stage]
        reused = next((place for place, step in enumerate(steps) if step.state != "cached"), len(steps))
        if reused < 2 or reused == len(steps) or not _is(steps[reused], "COPY", "ADD"):
            continue
        after = [step for step in steps[reused + 1 :] if _is(step, "RUN") and step.state == "ran"]
        cost = sum(step.run_seconds for step in after)
        if cost >= _WORTH_IT:
            yield (
                f"{_title(steps[reused])} was the first step that could not be reused; the RUN steps after it took "
                f"{seconds(cost)} because of that. If they need only some of those files, copy these first and the "
                "rest afterwards."
            )


def _tail(timeline: Timeline) -> Iterator[str]:
    tail = timeline.push_tail_seconds or 0.0
    if tail < _WORTH_IT or tail < timeline.total_seconds / 10:
        return
    last = max((step for step in timeline.steps if step.layer), key=lambda step: step.finished, default=None)
    if last and last.layer:
        yield (
            f"After the last step {seconds(tail)} went by until the image was published; the last layer to arrive was "
            f"that of {_title(last)}, {size(last.layer.bytes)}, {size(last.layer.compressed_bytes)} compressed. A "
            "smaller layer there would shorten this most."
        )


def _longest(timeline: Timeline) -> Iterator[str]:
    runs = [step for step in timeline.ran if _is(step, "RUN")]
    if not runs:
        return
    step = max(runs, key=lambda each: each.run_seconds)
    if step.run_seconds < max(_WORTH_IT, timeline.total_seconds / 2):
        return
    yield (
        f"{_title(step)} alone took {seconds(step.run_seconds)}, {percent(step.run_seconds, timeline.total_seconds)} "
        f"of the total: nothing but a shorter command or its reuse makes this build much faster."
    )


def _is(step: Step, *instructions: str) -> bool:
    return step.instruction in instructions


def _title(step: Step) -> str:
    return shorten(step.title, _TITLE)
