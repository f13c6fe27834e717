"""Builds that never happened: spans recorded with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ci_plugins.events import ActiveSpan, Event, Listener, Recorder, Value


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Planned:
    """A span that is to be recorded; `parent` is another one."""

    kind: str
    name: str
    start: float
    end: float
    parent: Planned | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    #: known only when the span ends
    late: dict[str, Value] = field(default_factory=dict)


def record(planned: Sequence[Planned], listeners: Sequence[Listener] = ()) -> Recorder:
    """Open and close the spans in the order of their times."""
    clock = Clock()
    recorder = Recorder(listeners, clock)
    recorder.started_at = 1_750_000_000.0
    moments = sorted(
        [(each.start, 1, place) for place, each in enumerate(planned)]
        + [(each.end, 0 if each.end > each.start else 2, place) for place, each in enumerate(planned)]
    )
    active: dict[int, ActiveSpan] = {}
    for moment, order, place in moments:
        clock.now = 100.0 + moment
        each = planned[place]
        if order == 1:
            parent = active[id(each.parent)] if each.parent else None
            active[id(each)] = recorder.begin(each.kind, each.name, parent, **each.attributes)
        else:
            active[id(each)].set(**each.late)
            active[id(each)].end()
    return recorder


class Steps:
    """Writes the spans of a build with one stage, step after step."""

    def __init__(self, total: int, end: float, stage: str = "stage-0") -> None:
        self.build = Planned("build", "localhost:5000/shop/web:1.4", 0.0, end)
        self.spans = [self.build]
        self._total = total
        self._stage = stage
        self._number = 0

    def cached(self, text: str, at: float) -> Planned:
        return self._step(text, at, at + 0.001, "cached")

    def ran(
        self,
        text: str,
        start: float,
        end: float,
        *,
        layer: tuple[float, float, int, int] | None = None,
        upload: tuple[float, float] | None = None,
        result: str = "uploaded",
        error: str = "",
    ) -> Planned:
        """`layer` is start, end, bytes, compressed bytes."""
        step = self._step(text, start, end, "ran", error)
        if text.startswith("RUN"):
            failed: dict[str, Value] = {"error": error} if error else {}
            self.spans.append(Planned("run", text, start, end, step, {}, failed))
        if layer:
            sizes: dict[str, Value] = {"bytes": layer[2], "compressed_bytes": layer[3]}
            self.spans.append(Planned("layer", text, layer[0], layer[1], step, {}, sizes))
        if layer and upload:
            late: dict[str, Value] = {"bytes": layer[3], "result": result}
            self.spans.append(
                Planned("upload", "blob", upload[0], upload[1], step, {"destination": "localhost:5000/shop/web"}, late)
            )
        return step

    def other(self, kind: str, name: str, start: float, end: float, **late: Value) -> None:
        self.spans.append(Planned(kind, name, start, end, self.build, {}, late))

    def _step(self, text: str, start: float, end: float, state: str, error: str = "") -> Planned:
        self._number += 1
        place: dict[str, Value] = {
            "stage": self._stage,
            "number": self._number,
            "total": self._total,
            "instruction": text.split(" ")[0],
            "line": self._number,
            "state": state,
        }
        late: dict[str, Value] = {"error": error} if error else {}
        step = Planned("step", text, start, end, self.build, place, late)
        self.spans.append(step)
        return step


def python_web() -> list[Planned]:
    """Five steps: a large RUN, another one, a small COPY; layers travel while later steps run."""
    steps = Steps(5, 14.3)
    steps.other("plan", "plan", 0.0, 0.12)
    steps.other("resolve", "localhost:5000/debian:12", 0.12, 0.2)
    steps.other("download", "layer of localhost:5000/debian:12", 0.2, 0.9, bytes=48_000_000)
    steps.other("extract", "layer of localhost:5000/debian:12", 0.25, 1.1, bytes=124_000_000)
    steps.cached("FROM localhost:5000/debian:12", 0.2)
    steps.ran(
        "RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv",
        1.1,
        9.2,
        layer=(9.2, 10.3, 258_400_000, 92_100_000),
        upload=(9.3, 10.5),
    )
    steps.ran(
        "RUN python3 -m venv /venv && /venv/bin/pip install -r requirements.txt",
        9.25,
        13.4,
        layer=(13.4, 13.8, 31_000_000, 9_900_000),
        upload=(13.42, 13.9),
    )
    steps.ran("COPY src/ /app", 13.42, 13.47, layer=(13.42, 13.46, 21_000, 6_100), upload=(13.45, 13.6))
    steps.ran('CMD ["/venv/bin/gunicorn", "app:app"]', 13.47, 13.471)
    steps.other("upload", "config", 13.9, 13.95, bytes=2_300, result="uploaded", destination="localhost:5000/shop/web")
    steps.other(
        "manifest", "localhost:5000/shop/web:1.4", 13.95, 14.1, tag="1.4", destination="localhost:5000/shop/web"
    )
    return steps.spans


def many_steps(count: int) -> list[Planned]:
    """Every third step is reused; the rest run one after another, their layers in the background."""
    steps = Steps(count, count * 0.8 + 1.0, stage="build")
    at = 0.3
    steps.other("plan", "plan", 0.0, 0.3)
    for number in range(count):
        if number % 3 == 0:
            steps.cached(f"COPY part-{number} /srv/part-{number}", at)
            continue
        end = at + 0.5 + 0.4 * (number % 5)
        steps.ran(f"RUN make part-{number}", at, end, layer=(end, end + 0.7, 9_000_000 * (number % 7 + 1), 4_000_000))
        at = end
    steps.build.end = at + 1.0
    steps.other("manifest", "tag", at + 0.8, at + 0.9)
    return steps.spans


def failing() -> list[Planned]:
    """The second step's command fails."""
    steps = Steps(3, 2.5)
    steps.cached("FROM scratch", 0.1)
    steps.ran("RUN make | tee <log>", 0.2, 2.4, error="StepFailed")
    return steps.spans


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
