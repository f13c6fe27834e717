"""Timeline → the geometry of a chart: lanes and bars. Horizontal places are per cent of the width, so that the page
can be as wide as it likes; vertical ones are pixels. Colours and sizes become attributes in the page, because some CI
servers show reports without style sheets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ci_plugins.report.text import seconds, shorten, size
from ci_plugins.report.timeline import Phase, Step, Timeline, Transfer

COLOURS = {
    "ran": "#3b6fb6",
    "failed": "#c0392b",
    "stopped": "#d3a298",
    "layer": "#e39b22",
    "upload": "#2e9e6b",
    "download": "#8a63b8",
    "extract": "#b99ad6",
    "plan": "#7b8794",
    "resolve": "#7b8794",
    "manifest": "#1f2933",
    "mount": "#4aa3a2",
}
_LEGEND = (
    ("plan", "plan, resolve"),
    ("download", "download"),
    ("extract", "extract"),
    ("ran", "step executes"),
    ("layer", "layer: tar, hash, compress"),
    ("upload", "upload"),
    ("manifest", "manifest"),
    ("mount", "cache mounts"),
    ("failed", "failed"),
    ("stopped", "stopped"),
)
_AXIS = 24
_TALL, _LOW = 32, 20
_LABEL = 44
#: per cent; narrower bars could not be seen
_THINNEST = 0.25


@dataclass(frozen=True, slots=True)
class Bar:
    """`x` and `width` in per cent, `y` and `height` in pixels below the top of its lane."""

    kind: str
    x: float
    width: float
    y: float
    height: float
    title: str

    @property
    def colour(self) -> str:
        return COLOURS[self.kind]


@dataclass(frozen=True, slots=True)
class Lane:
    label: str
    note: str
    title: str
    bars: tuple[Bar, ...]
    muted: bool = False
    height: float = _LOW
    y: float = 0


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    height: float
    axis: float
    ticks: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    #: from the end of the last step to the accepted manifest
    tail: Bar | None
    legend: tuple[tuple[str, str], ...]


def chart(timeline: Timeline) -> Chart:
    scale = _Scale(timeline)
    lanes: list[Lane] = []
    y = float(_AXIS)
    for lane in _lanes(timeline, scale):
        lanes.append(replace(lane, y=y))
        y += lane.height
    used = {bar.kind for lane in lanes for bar in lane.bars}
    return Chart(
        height=y + 4,
        axis=_AXIS,
        ticks=tuple(
            Tick(scale.x(moment), f"{moment:g} s" if moment < 60 else seconds(moment)) for moment in _ticks(scale.end)
        ),
        lanes=tuple(lanes),
        tail=_tail(timeline, scale),
        legend=tuple((COLOURS[kind], text) for kind, text in _LEGEND if kind in used),
    )


class _Scale:
    """Seconds → per cent of the width."""

    def __init__(self, timeline: Timeline) -> None:
        ends = [step.finished for step in timeline.steps]
        ends += [each.end for each in timeline.transfers] + [each.end for each in timeline.phases]
        ends += [each.end for each in timeline.mounts]
        self.end = max(timeline.total_seconds, *ends, 0.001)

    def x(self, moment: float) -> float:
        return round(100 * max(moment, 0.0) / self.end, 3)

    def bar(self, kind: str, start: float, end: float, title: str, y: float, height: float) -> Bar:
        x = min(self.x(start), 100 - _THINNEST)
        width = max(self.x(end) - x, _THINNEST)
        when = f"{title}: {seconds(end - start)}, from {_moment(start)} to {_moment(end)}"
        return Bar(kind, x, round(width, 3), y, height, when)


def _lanes(timeline: Timeline, scale: _Scale) -> Iterator[Lane]:
    early = [phase for phase in timeline.phases if phase.kind != "manifest"]
    if early:
        yield _phases("plan, base images", early, scale)
    of_steps = {upload for step in timeline.steps for upload in step.uploads}
    others = [each for each in timeline.transfers if each not in of_steps]
    for kind in ("download", "extract"):
        yield from _packed(kind, [each for each in others if each.kind == kind], scale)
    for step in timeline.steps:
        yield _step(step, scale)
    yield from _packed("upload", [each for each in others if each.kind == "upload"], scale)
    late = [phase for phase in timeline.phases if phase.kind == "manifest"]
    if late:
        yield _phases("manifest", late, scale)
    if timeline.mounts:
        bars = [scale.bar("mount", each.start, each.end, each.title, 5, 10) for each in timeline.mounts]
        yield Lane("cache mounts", "", "cache mounts", tuple(bars))


def _phases(label: str, phases: Sequence[Phase], scale: _Scale) -> Lane:
    bars = (scale.bar(each.kind, each.start, each.end, f"{each.kind} {each.name}", 5, 10) for each in phases)
    return Lane(label, "", label, tuple(bars))


def _step(step: Step, scale: _Scale) -> Lane:
    bars: list[Bar] = []
    behind = step.layer is not None or bool(step.uploads)
    if step.state != "cached":
        bars.append(scale.bar(step.state, step.start, step.end, step.title, 4, 11))
    if step.layer:
        packed = f"layer of {step.title}, {size(step.layer.bytes)} → {size(step.layer.compressed_bytes)}"
        bars.append(scale.bar("layer", step.layer.start, step.layer.end, packed, 17, 5))
    for upload in step.uploads:
        kind = "failed" if upload.result == "failed" else "upload"
        bars.append(scale.bar(kind, upload.start, upload.end, _transfer(upload, f"layer of {step.title}"), 23, 5))
    note = "cached" if step.state == "cached" else seconds(step.run_seconds)
    return Lane(
        shorten(step.title, _LABEL), note, step.title, tuple(bars), step.state == "cached", _TALL if behind else _LOW
    )


def _packed(kind: str, transfers: Sequence[Transfer], scale: _Scale) -> Iterator[Lane]:
    """As few lanes as can hold them without overlap."""
    lanes: list[list[Transfer]] = []
    for transfer in sorted(transfers, key=lambda each: each.start):
        free = next((lane for lane in lanes if lane[-1].end <= transfer.start), None)
        if free is None:
            lanes.append([transfer])
        else:
            free.append(transfer)
    for place, lane in enumerate(lanes):
        bars = (
            scale.bar(
                "failed" if each.result == "failed" else kind, each.start, each.end, _transfer(each, each.name), 5, 10
            )
            for each in lane
        )
        yield Lane(_PACKED_LABELS[kind] if place == 0 else "", "", _PACKED_LABELS[kind], tuple(bars))


_PACKED_LABELS = {"download": "download", "extract": "extract", "upload": "other uploads"}


def _transfer(transfer: Transfer, what: str) -> str:
    where = f" to {transfer.destination}" if transfer.destination else ""
    how = {"exists": ", already there", "mounted": ", mounted", "failed": ", failed"}.get(transfer.result, "")
    return f"{transfer.kind} of {what}{where}, {size(transfer.bytes)}{how}"


def _tail(timeline: Timeline, scale: _Scale) -> Bar | None:
    if not timeline.push_tail_seconds:
        return None
    start = max(step.end for step in timeline.steps)
    x = scale.x(start)
    width = scale.x(start + timeline.push_tail_seconds) - x
    return Bar("manifest", x, width, 0, 0, f"push tail {seconds(timeline.push_tail_seconds)}")


def _ticks(end: float) -> Iterator[float]:
    """About eight, at 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(end / 8))
    step = next(factor * power for factor in (1, 2, 5, 10) if end / (factor * power) <= 8)
    for number in range(math.floor(end / step) + 1):
        yield round(number * step, 9)


def _moment(moment: float) -> str:
    return "0 s" if moment == 0 else seconds(moment)
