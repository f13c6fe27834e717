"""Spans: timed pieces of work, the only thing reports are made of. Standard library only.

A `Recorder` is shared by all threads of a build. Whoever does something that takes time opens a span; whoever wants
to show progress is a listener. Nothing here prints.

Span kinds and their attributes (all optional, bytes are counts of bytes):

    build     the whole                       tags, platform
    plan      parse, hash, look up            steps
    resolve   a base image's manifest         image
    cache     questions to the cache          keys, found; of the look-up: scope, reads (one a line), scope_origin
    explain   why steps are not reused        headline, and for each step in which a reason lies: its key → the reason
    step      one instruction                 stage, number, total, instruction, state ("ran", "cached"), key, line
    run       the command of a RUN step       command
    layer     tar + hash + compress + hash    bytes (uncompressed), compressed_bytes, entries, media_type, digest,
                                              tar_seconds, compress_seconds (busy time inside the span)
    download  a blob from a registry          bytes, digest
    extract   tar to snapshot                 bytes, entries
    upload    a blob to a destination         bytes, digest, destination, result ("uploaded", "exists", "mounted")
    mount     a cache mount: wait for it,     action ("wait", "restore", "save"), bytes, entries, sent_bytes, result
              bring it here, send it away
    manifest  a manifest or tag put           destination, tag

Parents: everything hangs below "build"; "run", "layer" and the "upload" of a step's layer below their "step", which
they may outlive (that is the point); "resolve", "download" and "extract" of a base image below "build".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Span:
    """A finished piece of work. Times are seconds since the recorder began."""

    id: int
    parent: int | None
    kind: str
    name: str
    start: float
    end: float
    attributes: Mapping[str, Value]

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SpanStarted:
    id: int
    parent: int | None
    kind: str
    name: str
    at: float
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SpanEnded:
    span: Span


@dataclass(frozen=True, slots=True)
class Progress:
    """So much of a running span is done; `total` is None while unknown. Both in bytes."""

    id: int
    done: int
    total: int | None
    at: float


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A line a RUN command wrote, without its newline; `id` is the run span's."""

    id: int
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Warned:
    message: str
    at: float


Event = SpanStarted | SpanEnded | Progress | OutputLine | Warned


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...


class ActiveSpan:
    """A span that is still open. Safe to use from the thread that works on it; ended once."""

    __slots__ = ("_attributes", "_ended", "_recorder", "id", "kind", "name", "parent", "start")

    def __init__(self, recorder: Recorder, id: int, parent: int | None, kind: str, name: str, start: float) -> None:
        self._recorder = recorder
        self._attributes: dict[str, Value] = {}
        self._ended = False
        self.id, self.parent, self.kind, self.name, self.start = id, parent, kind, name, start

    def set(self, **attributes: Value) -> None:
        self._attributes.update(attributes)

    def progress(self, done: int, total: int | None = None) -> None:
        self._recorder._emit(Progress(self.id, done, total, self._recorder.now()))

    def line(self, text: str) -> None:
        self._recorder._emit(OutputLine(self.id, text, self._recorder.now()))

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        frozen = MappingProxyType(dict(self._attributes))
        span = Span(self.id, self.parent, self.kind, self.name, self.start, self._recorder.now(), frozen)
        self._recorder._finish(span)


class Recorder:
    """Collects spans from all threads and tells listeners; a listener is called from many threads."""

    def __init__(self, listeners: Sequence[Listener] = (), clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._origin = clock()
        self._lock = threading.Lock()
        self._listeners = tuple(listeners)
        self._next_id = 0
        self._spans: list[Span] = []
        self._warnings: list[str] = []
        #: wall clock at second 0, seconds since the epoch
        self.started_at = time.time()

    def now(self) -> float:
        return self._clock() - self._origin

    def begin(self, kind: str, name: str, parent: ActiveSpan | None = None, **attributes: Value) -> ActiveSpan:
        with self._lock:
            self._next_id += 1
            number = self._next_id
        span = ActiveSpan(self, number, parent.id if parent else None, kind, name, self.now())
        span.set(**attributes)
        self._emit(SpanStarted(number, span.parent, kind, name, span.start, MappingProxyType(dict(attributes))))
        return span

    @contextmanager
    def span(self, kind: str, name: str, parent: ActiveSpan | None = None, **attributes: Value) -> Iterator[ActiveSpan]:
        """Open a span for a block; an exception is noted in the attribute `error` and passes on."""
        active = self.begin(kind, name, parent, **attributes)
        try:
            yield active
        except BaseException as error:
            active.set(error=type(error).__name__)
            raise
        finally:
            active.end()

    def warn(self, message: str) -> None:
        """Something went wrong that the build survives; shown and counted in the report."""
        with self._lock:
            self._warnings.append(message)
        self._emit(Warned(message, self.now()))

    def spans(self) -> tuple[Span, ...]:
        """Finished spans by start."""
        with self._lock:
            return tuple(sorted(self._spans, key=lambda span: (span.start, span.id)))

    def warnings(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._warnings)

    def _finish(self, span: Span) -> None:
        with self._lock:
            self._spans.append(span)
        self._emit(SpanEnded(span))

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
