"""What happened in a build, when, and what overlapped: the values every report is rendered from.

All times are seconds since the recorder began, all sizes bytes. `derive` makes them from spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ci_plugins.report.intervals import covered
from ci_plugins.report.scopes import Scopes

#: "stopped": another step failed, or somebody interrupted the build
State = Literal["ran", "cached", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A blob on its way, or a layer being unpacked."""

    kind: Literal["upload", "download", "extract"]
    name: str
    start: float
    end: float
    bytes: int
    #: uploads: "uploaded", "exists" or "mounted"; "failed" when it was
    result: str
    destination: str

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def moved(self) -> bool:
        """Whether bytes went over the wire."""
        return self.result not in ("exists", "mounted", "failed")


@dataclass(frozen=True, slots=True)
class Layer:
    """A step's result being packed: tar, hash, compress, hash in one pass."""

    start: float
    end: float
    bytes: int
    compressed_bytes: int

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction. It executes from `start` to `end`; its layer and uploads go on after that."""

    id: int
    stage: str
    #: `[build 2/6]`
    place: str
    number: int
    total: int
    #: `RUN`
    instruction: str
    #: the whole instruction on one line
    text: str
    state: State
    start: float
    end: float
    layer: Layer | None
    uploads: tuple[Transfer, ...]
    #: how long the layer and its uploads were under way while other steps were executing
    overlap_seconds: float
    #: why it was not reused, where the reason lies in this step; empty if it lies in one before, or is not known
    reason: str = ""

    @property
    def title(self) -> str:
        return f"{self.place} {self.text}".strip()

    @property
    def run_seconds(self) -> float:
        return 0.0 if self.state == "cached" else self.end - self.start

    @property
    def finished(self) -> float:
        """When nothing of it was under way any more, its layer and uploads included."""
        return max((self.end, *(each.end for each in self.uploads), self.layer.end if self.layer else 0.0))

    @property
    def upload_seconds(self) -> float:
        """Wall time during which at least one upload of this step's layer was under way."""
        return covered((each.start, each.end) for each in self.uploads)


@dataclass(frozen=True, slots=True)
class Phase:
    """Work that belongs to no step: plan, resolve, manifest."""

    kind: str
    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class MountWork:
    """What was done with a cache mount. `action` is "wait" (another step had it), "restore" or "save"; `moved_bytes`
    are compressed, of what was received or sent."""

    action: str
    id: str
    start: float
    end: float
    result: str
    bytes: int
    moved_bytes: int

    @property
    def title(self) -> str:
        return f"{'wait for' if self.action == 'wait' else self.action} {self.id}"

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Wait:
    """A part of the critical path: from `start` to `end` the build waited for this."""

    kind: str
    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Timeline:
    #: what was built, for people: the tags, or the context
    image: str
    succeeded: bool
    #: seconds since the epoch at second 0
    started_at: float
    total_seconds: float
    #: end of the last step → last manifest accepted; None when nothing was published
    push_tail_seconds: float | None
    steps: tuple[Step, ...]
    #: in order of start; those of steps included
    transfers: tuple[Transfer, ...]
    phases: tuple[Phase, ...]
    critical_path: tuple[Wait, ...]
    #: how many things were under way on average while anything was
    parallelism: float
    warnings: tuple[str, ...]
    #: in order of start
    mounts: tuple[MountWork, ...] = ()
    #: of the cache; None if nothing was looked up
    scopes: Scopes | None = None

    @property
    def ran(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.state != "cached")

    @property
    def cached(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.state == "cached")

    @property
    def failed(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.state == "failed")

    @property
    def uploaded_bytes(self) -> int:
        return sum(each.bytes for each in self.transfers if each.kind == "upload" and each.moved)

    @property
    def skipped_uploads(self) -> int:
        """Blobs the destination had already, or took over from another repository."""
        return sum(each.result in ("exists", "mounted") for each in self.transfers)

    @property
    def downloaded_bytes(self) -> int:
        return sum(each.bytes for each in self.transfers if each.kind == "download" and each.moved)
