"""Progress as a live view at the bottom of a terminal. Imports rich: only for those who have a terminal."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ci_plugins.events import Event, OutputLine, Progress, Recorder, Span, SpanEnded, SpanStarted, Warned
from ci_plugins.report.derive import place_of
from ci_plugins.report.progress import FailedOutput, describe
from ci_plugins.report.text import clean, seconds, size

_OUTPUT_SHOWN = 4
_MOVING = ("layer", "upload", "download", "extract")
_STYLES = {"done": "blue", "cached": "green", "failed": "bold red", "stopped": "yellow"}


@dataclass
class _StepView:
    title: str
    start: float
    state: str = ""
    seconds: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_OUTPUT_SHOWN))


@dataclass
class _MoveView:
    text: str
    start: float
    done: int = 0
    total: int | None = None


class LiveProgress:
    """Listener and context manager. Steps in order with their last lines of output, then what is on its way; gone
    when it ends. What a failing command wrote last, and warnings, stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._steps: dict[int, _StepView] = {}
        self._moves: dict[int, _MoveView] = {}
        self._runs: dict[int, int] = {}
        self._now = Recorder().now
        self._spinner = Spinner("dots")
        self._failed = FailedOutput(self._keep)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._take(event)
        # outside the lock: printing makes rich draw the view, which takes it
        self._failed(event)
        if isinstance(event, SpanEnded) and event.span.kind == "explain":
            self._keep(f"{describe(event.span)}\n")
        elif isinstance(event, Warned):
            self._keep(f"warning: {clean(event.message)}\n")

    def _keep(self, text: str) -> None:
        self._console.print(Text(text.rstrip("\n")))

    # -- events -----------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case OutputLine():
                step = self._steps.get(self._runs.get(event.id, -1))
                if step:
                    step.lines.append(event.text)
            case Progress():
                if move := self._moves.get(event.id):
                    move.done, move.total = event.done, event.total
            case SpanStarted():
                self._start(event)
            case SpanEnded():
                self._end(event.span)
            case _:
                pass

    def _start(self, event: SpanStarted) -> None:
        # our clock starts with the view, a little before the recorder's: good enough for a display
        if event.kind == "step":
            title = f"{place_of(event.attributes)} {clean(event.name)}".strip()
            self._steps[event.id] = _StepView(title, self._now())
        elif event.kind == "run" and event.parent is not None:
            self._runs[event.id] = event.parent
        elif event.kind in _MOVING:
            above = self._steps.get(event.parent) if event.parent is not None else None
            text = f"{event.kind} of {above.title if above else clean(event.name)}"
            self._moves[event.id] = _MoveView(text, self._now())

    def _end(self, span: Span) -> None:
        self._moves.pop(span.id, None)
        self._runs.pop(span.id, None)
        step = self._steps.get(span.id)
        if step is None:
            return
        step.seconds = span.seconds
        step.lines.clear()
        error = span.attributes.get("error")
        if error:
            step.state = "stopped" if error == "Interrupted" else "failed"
        else:
            step.state = "cached" if span.attributes.get("state") == "cached" else "done"

    # -- drawing ----------------------------------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        with self._lock:
            height = max(self._console.height - 2, 4)
            moves = list(self._moves.values())[: max(height // 3, 1)]
            steps = list(self._steps.values())
            running = [step for step in steps if not step.state]
            room = height - len(moves) - sum(1 + len(step.lines) for step in running)
            finished = [step for step in steps if step.state]
            shown = {id(step) for step in finished[-room:]} if room > 0 else set()
            table = Table.grid(padding=(0, 1), expand=True)
            table.add_column(no_wrap=True, width=2)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            table.add_column(no_wrap=True, justify="right")
            for step in steps:
                if not step.state or id(step) in shown:
                    self._step_rows(table, step)
            for move in moves:
                table.add_row("", Text(move.text, style="dim"), Text(self._rate(move), style="dim"))
            return Group(table)

    def _step_rows(self, table: Table, step: _StepView) -> None:
        if step.state:
            mark = {"failed": "✗", "stopped": "■"}.get(step.state, "✓")
            style = _STYLES[step.state]
            took = "cached" if step.state == "cached" else seconds(step.seconds)
            table.add_row(Text(mark, style=style), Text(step.title), Text(took, style=style))
            return
        table.add_row(self._spinner, Text(step.title, style="bold"), Text(seconds(self._now() - step.start)))
        for line in step.lines:
            table.add_row("", Text("  " + clean(line), style="dim"), "")

    def _rate(self, move: _MoveView) -> str:
        took = self._now() - move.start
        total = f" of {size(move.total)}" if move.total else ""
        rate = f", {size(move.done / took)}/s" if took > 0.2 and move.done else ""
        return f"{size(move.done)}{total}{rate}" if move.done else seconds(took)
