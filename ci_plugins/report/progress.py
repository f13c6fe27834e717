"""Progress as plain lines, for CI logs: one line a thing, everything of a step carries its number.

#4 [build 2/6] RUN pip install -r requirements.txt
#4 1.207 Collecting flask
#4 done in 8.1 s
#4 layer 258 MB → 92.1 MB in 1.1 s
#4 uploaded 92.1 MB to localhost:5000/web in 1.2 s
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ci_plugins.events import Event, OutputLine, Span, SpanEnded, SpanStarted, Warned
from ci_plugins.report.derive import place_of
from ci_plugins.report.text import clean, seconds, size

Write = Callable[[str], object]

#: lines of a failed command that are shown where its output was not
KEPT_LINES = 40


class PlainProgress:
    """Listener. `write` gets whole lines with their newline, one call at a time."""

    def __init__(self, write: Write) -> None:
        self._write: Write | None = write
        self._lock = threading.Lock()
        #: span id of a step → its number
        self._numbers: dict[int, int] = {}
        #: span id of a run → number of its step as text, start
        self._runs: dict[int, tuple[str, float]] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            line = self._line(event)
            if line is None or self._write is None:
                return
            try:
                self._write(line + "\n")
            except OSError:
                self._write = None  # nobody reads any more, which is no reason for the build to fail

    def _line(self, event: Event) -> str | None:
        match event:
            case OutputLine():
                number, start = self._runs.get(event.id, ("", event.at))
                return f"{number} {event.at - start:.3f} {clean(event.text)}"
            case SpanStarted():
                return self._started(event)
            case SpanEnded():
                return self._ended(event.span)
            case Warned():
                return f"warning: {clean(event.message)}"
            case _:
                return None

    def _started(self, event: SpanStarted) -> str | None:
        if event.kind == "step":
            self._numbers[event.id] = len(self._numbers) + 1
            if event.attributes.get("state") == "cached":
                return None
            return f"{self._number(event.id)} {place_of(event.attributes)} {clean(event.name)}"
        if event.kind == "run":
            self._runs[event.id] = (self._number(event.parent), event.at)
        return None

    def _ended(self, span: Span) -> str | None:
        number = self._number(span.parent)
        if "error" in span.attributes:
            return self._failed(span)
        match span.kind:
            case "step" if span.attributes.get("state") == "cached":
                return f"{self._number(span.id)} {place_of(span.attributes)} {clean(span.name)}  cached"
            case "step":
                return f"{self._number(span.id)} done in {seconds(span.seconds)}"
            case "explain" | "layer" | "upload" | "download" | "extract" | "resolve" | "manifest" | "mount":
                line = describe(span)
                return f"{number} {line}".strip() if line else None
            case _:
                return None

    def _failed(self, span: Span) -> str | None:
        if span.kind != "step" or span.attributes["error"] == "Interrupted":
            return None
        return f"{self._number(span.id)} FAILED after {seconds(span.seconds)}"

    def _number(self, step: int | None) -> str:
        number = self._numbers.get(step) if step is not None else None
        return f"#{number}" if number else ""


def describe(span: Span) -> str:
    """A finished piece of work that is not a step, in words; empty if it is not worth a line."""
    get = span.attributes.get
    took = f"in {seconds(span.seconds)}"
    moved = size(_number_of(get("bytes")))
    match span.kind:
        case "layer":
            return f"layer {moved} → {size(_number_of(get('compressed_bytes')))} {took}"
        case "upload" if get("result") in ("exists", "mounted"):
            return ""
        case "upload":
            return f"uploaded {moved} to {clean(str(get('destination', '')))} {took}"
        case "download":
            return f"downloaded {clean(span.name)}, {moved}, {took}"
        case "extract":
            return f"extracted {clean(span.name)} {took}"
        case "resolve":
            return f"found {clean(span.name)} {took}"
        case "explain":
            return clean(str(get("headline", "")))
        case "manifest":
            return f"published {clean(str(get('destination', '')))} {clean(str(get('tag') or span.name))} {took}"
        case "mount":
            return _mount(span)
        case _:
            return ""


def _mount(span: Span) -> str:
    get, name = span.attributes.get, clean(span.name)
    took = f"in {seconds(span.seconds)}"
    match (get("action"), get("result")):
        case ("wait", _):
            return f"waited for the cache mount {name} {seconds(span.seconds)}"
        case ("restore", "restored"):
            return f"restored the cache mount {name}, {size(_number_of(get('bytes')))}, {took}"
        case ("restore", "added"):
            return f"added to the cache mount {name} what others saved, {size(_number_of(get('bytes')))}, {took}"
        case ("save", "saved"):
            return f"saved the cache mount {name}, sent {size(_number_of(get('sent_bytes')))}, {took}"
        case _:
            return ""


def _number_of(value: object) -> float:
    return value if isinstance(value, int | float) else 0


class FailedOutput:
    """Listener for when output is not shown: the last lines of every running command, written if it fails."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._lines: dict[int, deque[str]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, OutputLine):
            with self._lock:
                lines = self._lines.setdefault(event.id, deque(maxlen=KEPT_LINES))
                lines.append(event.text)
        elif isinstance(event, SpanEnded) and event.span.kind == "run":
            with self._lock:
                kept = self._lines.pop(event.span.id, None)
            if kept and event.span.attributes.get("error", "Interrupted") != "Interrupted":
                self._write("".join(f"{clean(line)}\n" for line in (clean(event.span.name), *kept)))
