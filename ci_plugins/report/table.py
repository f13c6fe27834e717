"""The table of steps, as text: what the terminal, Markdown and HTML reports have in common."""

from __future__ import annotations

from dataclasses import dataclass

from ci_plugins.report.text import seconds, size
from ci_plugins.report.timeline import Step, Timeline

#: per cent of the total below which a wait of this kind is not worth a line
_LEAST = {"other": 5}
HEADINGS = ("step", "state", "run", "compress", "upload", "overlap", "layer")


@dataclass(frozen=True, slots=True)
class Row:
    """One step. Cells are empty where there is nothing to say; `cells` follow HEADINGS."""

    title: str
    state: str
    run: str
    compress: str
    upload: str
    overlap: str
    layer: str
    #: why the step was not reused; empty if there is nothing to say
    reason: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return self.title, self.state, self.run, self.compress, self.upload, self.overlap, self.layer


def rows(timeline: Timeline) -> tuple[Row, ...]:
    return tuple(_row(step) for step in timeline.steps)


def _row(step: Step) -> Row:
    layer = step.layer
    return Row(
        title=step.title,
        state="FAILED" if step.state == "failed" else step.state,
        run="" if step.state == "cached" else seconds(step.run_seconds),
        compress=seconds(layer.seconds) if layer else "",
        upload=_upload(step),
        overlap=seconds(step.overlap_seconds) if step.overlap_seconds > 0 else "",
        layer=f"{size(layer.bytes)} → {size(layer.compressed_bytes)}" if layer and layer.compressed_bytes else "",
        reason=step.reason,
    )


def _upload(step: Step) -> str:
    if not step.uploads:
        return ""
    if any(each.result == "failed" for each in step.uploads):
        return "failed"
    if any(each.moved for each in step.uploads):
        return seconds(step.upload_seconds)
    return "there" if all(each.result == "exists" for each in step.uploads) else "mounted"


def figures(timeline: Timeline) -> tuple[tuple[str, str], ...]:
    """The few numbers that matter: name and value."""
    found = [("total", seconds(timeline.total_seconds))]
    if timeline.push_tail_seconds is not None:
        found.append(("push tail", seconds(timeline.push_tail_seconds)))
    if timeline.steps:
        found.append(("steps", f"{len(timeline.ran)} ran, {len(timeline.cached)} cached"))
    if timeline.uploaded_bytes or timeline.skipped_uploads:
        there = f", {timeline.skipped_uploads} blobs already there" if timeline.skipped_uploads else ""
        found.append(("uploaded", size(timeline.uploaded_bytes) + there))
    if timeline.downloaded_bytes:
        found.append(("downloaded", size(timeline.downloaded_bytes)))
    if timeline.parallelism >= 1.05:
        found.append(("parallelism", f"{timeline.parallelism:.1f}"))
    return tuple(found)


def waits(timeline: Timeline, most: int) -> tuple[tuple[str, str], ...]:
    """The `most` longest things the end waited for, in order of time: name and seconds. Small ones are left out."""
    one_percent = timeline.total_seconds / 100
    long = [
        wait for wait in timeline.critical_path if wait.seconds >= max(0.005, _LEAST.get(wait.kind, 1) * one_percent)
    ]
    chosen = sorted(sorted(long, key=lambda wait: -wait.seconds)[:most], key=lambda wait: wait.start)
    return tuple((_wait_name(wait.kind, wait.name), seconds(wait.seconds)) for wait in chosen)


def _wait_name(kind: str, name: str) -> str:
    if kind in ("step", "other"):
        return name or "other work"
    return f"{kind} of {name}" if name and name != kind else kind
