"""Spans → Timeline. Pure: the same spans give the same timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ci_plugins.events import Span, Value
from ci_plugins.report.critical import critical_path
from ci_plugins.report.intervals import covered, shared
from ci_plugins.report.scopes import scopes_of
from ci_plugins.report.text import clean
from ci_plugins.report.timeline import Layer, MountWork, Phase, State, Step, Timeline, Transfer


def derive(
    spans: Sequence[Span], *, warnings: Sequence[str] = (), started_at: float = 0.0, succeeded: bool = True
) -> Timeline:
    """Needs only the spans; attributes that are missing count as unknown or zero."""
    ordered = sorted(spans, key=lambda span: (span.start, span.id))
    steps = _steps(ordered)
    phases = tuple(
        Phase(span.kind, clean(span.name), span.start, span.end)
        for span in ordered
        if span.kind in ("plan", "resolve", "manifest")
    )
    transfers = tuple(_transfer(span) for span in ordered if span.kind in _TRANSFERS)
    whole = next((span for span in ordered if span.kind == "build"), None)
    start = whole.start if whole else min((span.start for span in ordered), default=0.0)
    end = whole.end if whole else max((span.end for span in ordered), default=0.0)
    busy = [(span.start, span.end) for span in ordered if span.kind in _WORK]
    busy += [(step.start, step.end) for step in steps if step.state != "cached"]
    return Timeline(
        image=clean(whole.name) if whole else "",
        succeeded=succeeded,
        started_at=started_at,
        total_seconds=end - start,
        push_tail_seconds=_push_tail(ordered, steps) if succeeded else None,
        steps=steps,
        transfers=transfers,
        phases=phases,
        critical_path=critical_path(ordered, steps, start, end),
        parallelism=_ratio(sum(b - a for a, b in busy), covered(busy)),
        warnings=tuple(clean(text) for text in warnings),
        mounts=tuple(_mount(span) for span in ordered if span.kind == "mount"),
        scopes=scopes_of(ordered),
    )


_TRANSFERS = ("upload", "download", "extract")
#: kinds that are work in themselves; steps count by the time they execute
_WORK = ("plan", "resolve", "layer", "manifest", "mount", *_TRANSFERS)


def _steps(spans: Sequence[Span]) -> tuple[Step, ...]:
    children: dict[int, list[Span]] = {span.id: [] for span in spans if span.kind == "step"}
    for span in spans:
        if span.parent in children:
            children[span.parent].append(span)
    own = [span for span in spans if span.kind == "step"]
    executing = {span.id: _executes(span, children[span.id]) for span in own}
    busy = {span.id: executing[span.id] for span in own if span.attributes.get("state") != "cached"}
    reasons = _reasons(spans)
    steps = [_step(span, children[span.id], executing[span.id], busy, reasons) for span in own]
    # Dockerfile order: stages by their first step, steps by their number
    first = {step.stage: step.id for step in reversed(steps)}
    lines = {span.id: _int(span.attributes.get("line")) for span in own}
    return tuple(sorted(steps, key=lambda step: (lines[first[step.stage]], first[step.stage], step.number, step.id)))


def _executes(span: Span, children: Sequence[Span]) -> tuple[float, float]:
    """A RUN is over when its command is; other steps when their span is."""
    runs = [child.end for child in children if child.kind == "run"]
    return span.start, max(runs) if runs else span.end


def _reasons(spans: Sequence[Span]) -> Mapping[str, Value]:
    """Step key → why it is not reused. Of a build that began again, the last explanation."""
    found: dict[str, Value] = {}
    for span in spans:
        if span.kind == "explain":
            found |= span.attributes
    return found


def _step(
    span: Span,
    children: Sequence[Span],
    executes: tuple[float, float],
    busy: dict[int, tuple[float, float]],
    reasons: Mapping[str, Value],
) -> Step:
    layers = [_layer(child) for child in children if child.kind == "layer"]
    uploads = tuple(_transfer(child) for child in children if child.kind == "upload")
    after = [(layer.start, layer.end) for layer in layers] + [(upload.start, upload.end) for upload in uploads]
    others = [interval for step, interval in busy.items() if step != span.id]
    get = span.attributes.get
    return Step(
        id=span.id,
        stage=clean(str(get("stage", ""))),
        place=place_of(span.attributes),
        number=_int(get("number")),
        total=_int(get("total")),
        instruction=str(get("instruction", "")).upper(),
        text=clean(span.name),
        state=_state(span),
        start=executes[0],
        end=executes[1],
        layer=layers[-1] if layers else None,
        uploads=uploads,
        overlap_seconds=shared(after, others),
        reason="" if get("state") == "cached" else clean(str(reasons.get(str(get("key", "")), ""))),
    )


def place_of(attributes: Mapping[str, Value]) -> str:
    """Where a step stands, from its span: `[build 2/6]`."""
    stage, number, total = (attributes.get(name) for name in ("stage", "number", "total"))
    count = f"{number}/{total}" if total else str(number or "")
    inside = clean(f"{stage or ''} {count}").strip()
    return f"[{inside}]" if inside else ""


def _state(span: Span) -> State:
    error = span.attributes.get("error")
    if error:
        return "stopped" if error == "Interrupted" else "failed"
    return "cached" if span.attributes.get("state") == "cached" else "ran"


def _layer(span: Span) -> Layer:
    get = span.attributes.get
    return Layer(span.start, span.end, _int(get("bytes")), _int(get("compressed_bytes")))


def _transfer(span: Span) -> Transfer:
    get = span.attributes.get
    kind: Literal["upload", "download", "extract"] = (
        "upload" if span.kind == "upload" else "download" if span.kind == "download" else "extract"
    )
    result = "failed" if "error" in span.attributes else str(get("result", "uploaded" if kind == "upload" else ""))
    return Transfer(
        kind, clean(span.name), span.start, span.end, _int(get("bytes")), result, clean(str(get("destination", "")))
    )


def _mount(span: Span) -> MountWork:
    get = span.attributes.get
    result = "failed" if "error" in span.attributes else str(get("result", ""))
    moved = _int(get("sent_bytes")) + _int(get("received_bytes"))
    action = str(get("action", ""))
    return MountWork(action, clean(span.name), span.start, span.end, clean(result), _int(get("bytes")), moved)


def _push_tail(spans: Sequence[Span], steps: Sequence[Step]) -> float | None:
    accepted = [span.end for span in spans if span.kind == "manifest" and "error" not in span.attributes]
    if not accepted or not steps:
        return None
    return max(0.0, max(accepted) - max(step.end for step in steps))


def _int(value: Value | None) -> int:
    return int(value) if isinstance(value, int | float) else int(value) if value and value.isdigit() else 0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
