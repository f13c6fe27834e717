"""Why a step was run, from the build's explanation into progress and reports."""

from __future__ import annotations

import io

from rich.console import Console

from ci_plugins.events import Recorder
from ci_plugins.report import derive, timing_html, timing_json
from ci_plugins.report.live import LiveProgress
from ci_plugins.report.progress import PlainProgress

HEADLINE = "expected 1 of 2 steps reused; first miss: COPY . /app because src/main.py changed"


def explained(recorder: Recorder) -> None:
    with recorder.span("build", "app") as build:
        with recorder.span("step", "RUN deps", build, number=2, total=3, state="cached", key="sha256:a"):
            pass
        with recorder.span("step", "COPY . /app", build, number=3, total=3, state="ran", key="sha256:b"):
            pass
        with recorder.span("explain", "explain", build) as span:
            span.set(
                **{
                    "headline": HEADLINE,
                    "sha256:a": "not shown: it is cached",
                    "sha256:b": "src/<main>.py changed\x1b[2J",
                }
            )


def test_the_headline_is_a_line_of_progress() -> None:
    written: list[str] = []
    explained(Recorder((PlainProgress(written.append),)))
    assert HEADLINE + "\n" in written
    screen = io.StringIO()
    view = LiveProgress(Console(file=screen, force_terminal=True, width=120))
    with view:
        explained(Recorder((view,)))
    assert HEADLINE in screen.getvalue()


def test_reports_have_the_reason_of_the_step_it_lies_in() -> None:
    recorder = Recorder()
    explained(recorder)
    timeline = derive(recorder.spans())
    assert [step.reason for step in timeline.steps] == ["", "src/<main>.py changed"]
    assert [step["reason"] for step in timing_json.document(timeline)["steps"]] == ["", "src/<main>.py changed"]
    assert "<small>src/&lt;main&gt;.py changed</small>" in timing_html.render(timeline)


def test_an_explanation_alone_is_no_work() -> None:
    recorder = Recorder()
    with recorder.span("explain", "explain") as span:
        span.set(headline="")
    timeline = derive(recorder.spans())
    assert (timeline.steps, timeline.phases) == ((), ())
    written: list[str] = []
    with Recorder((PlainProgress(written.append),)).span("explain", "explain"):
        pass
    assert written == []
