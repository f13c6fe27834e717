"""Progress: plain lines for logs, a live view for terminals."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from ci_plugins.errors import StepFailed
from ci_plugins.events import Recorder
from ci_plugins.report.live import LiveProgress
from ci_plugins.report.progress import FailedOutput, PlainProgress
from tests.unit.report.samples import python_web, record


def lines_of(recorded: list[str]) -> list[str]:
    return "".join(recorded).splitlines()


def test_plain_lines_tell_the_build() -> None:
    written: list[str] = []
    record(python_web(), [PlainProgress(written.append)])
    assert lines_of(written) == [
        "found localhost:5000/debian:12 in 80 ms",
        "#1 [stage-0 1/5] FROM localhost:5000/debian:12  cached",
        "downloaded layer of localhost:5000/debian:12, 48 MB, in 0.70 s",
        "extracted layer of localhost:5000/debian:12 in 0.85 s",
        "#2 [stage-0 2/5] RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv",
        "#2 done in 8.1 s",
        "#3 [stage-0 3/5] RUN python3 -m venv /venv && /venv/bin/pip install -r requirements.txt",
        "#2 layer 258 MB → 92.1 MB in 1.1 s",
        "#2 uploaded 92.1 MB to localhost:5000/shop/web in 1.2 s",
        "#3 done in 4.2 s",
        "#4 [stage-0 4/5] COPY src/ /app",
        "#4 layer 21 kB → 6.1 kB in 40 ms",
        "#4 done in 50 ms",
        '#5 [stage-0 5/5] CMD ["/venv/bin/gunicorn", "app:app"]',
        "#5 done in 1 ms",
        "#4 uploaded 6.1 kB to localhost:5000/shop/web in 0.15 s",
        "#3 layer 31 MB → 9.9 MB in 0.40 s",
        "#3 uploaded 9.9 MB to localhost:5000/shop/web in 0.48 s",
        "uploaded 2.3 kB to localhost:5000/shop/web in 50 ms",
        "published localhost:5000/shop/web 1.4 in 0.15 s",
    ]


def test_cache_mounts_are_told_where_something_moved() -> None:
    written: list[str] = []
    recorder = Recorder([PlainProgress(written.append)])
    for action, result in [("restore", "restored"), ("restore", "added"), ("restore", "kept"), ("save", "saved")]:
        with recorder.span("mount", "/var/cache/npm", action=action) as span:
            span.set(result=result, bytes=2_000_000, sent_bytes=1_000_000)
    assert [line.rpartition(" in ")[0] for line in lines_of(written)] == [
        "restored the cache mount /var/cache/npm, 2 MB,",
        "added to the cache mount /var/cache/npm what others saved, 2 MB,",
        "saved the cache mount /var/cache/npm, sent 1 MB,",
    ]


def failing_run(recorder: Recorder, lines: int) -> None:
    with pytest.raises(StepFailed):
        _fail(recorder, lines)


def _fail(recorder: Recorder, lines: int) -> None:
    with recorder.span("step", "RUN make", stage="build", number=2, total=3) as step:
        with recorder.span("run", "RUN make", step) as run:
            for number in range(lines):
                run.line(f"line {number}")
            raise StepFailed("exited with code 2")


def test_output_carries_the_steps_number_and_its_time_and_no_escapes() -> None:
    written: list[str] = []
    recorder = Recorder([PlainProgress(written.append)], clock=lambda: 5.0)
    with recorder.span("step", "RUN make", number=1, total=1) as step, recorder.span("run", "RUN make", step) as run:
        run.line("\x1b[31m::error::red\x1b[0m")
    assert "#1 0.000 ::error::red\n" in written


def test_a_failing_command_keeps_its_output_and_is_marked() -> None:
    written: list[str] = []
    failing_run(Recorder([PlainProgress(written.append)]), 3)
    assert [line.split(" ")[-2:] for line in lines_of(written)[1:4]] == [["line", "0"], ["line", "1"], ["line", "2"]]
    assert lines_of(written)[-1].startswith("#1 FAILED after ")


def test_quiet_shows_the_end_of_the_output_of_a_failing_command_only() -> None:
    written: list[str] = []
    recorder = Recorder([FailedOutput(written.append)])
    with recorder.span("run", "RUN fine") as run:
        run.line("not shown")
    failing_run(recorder, 100)
    assert lines_of(written)[0] == "RUN make"
    assert lines_of(written)[1:] == [f"line {number}" for number in range(60, 100)]


def test_warnings_are_told() -> None:
    written: list[str] = []
    Recorder([PlainProgress(written.append)]).warn("the index is\nlocked")
    assert written == ["warning: the index is locked\n"]


def test_a_reader_who_goes_away_does_not_stop_the_build() -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError

    recorder = Recorder([PlainProgress(gone)])
    recorder.warn("one")
    recorder.warn("two")


def test_lines_of_many_threads_stay_whole() -> None:
    written: list[str] = []
    recorder = Recorder([PlainProgress(written.append)])

    def work(name: str) -> None:
        with recorder.span("step", f"RUN {name}", number=1) as step, recorder.span("run", name, step) as run:
            for _ in range(200):
                run.line(name * 3)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    output = [line.split(" ") for line in lines_of(written) if line.endswith(("aaa", "bbb", "ccc", "ddd"))]
    assert len(output) == 800
    # every letter has one number, every number one letter
    assert len({(words[0], words[2]) for words in output}) == 4


def test_a_hundred_thousand_lines_of_output_cost_little() -> None:
    recorder = Recorder([PlainProgress(io.StringIO().write)])
    with recorder.span("step", "RUN yes", number=1) as step, recorder.span("run", "RUN yes", step) as run:
        began = time.process_time()
        for _ in range(100_000):
            run.line("y" * 80)
        assert time.process_time() - began < 2.0


def live(height: int = 24) -> tuple[LiveProgress, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, height=height, highlight=False, color_system=None)
    return LiveProgress(console), screen


def drawn(view: LiveProgress, console_width: int = 90) -> str:
    paper = Console(file=io.StringIO(), width=console_width, color_system=None)
    with paper.capture() as captured:
        paper.print(view._render())
    return captured.get()


def test_the_live_view_shows_steps_output_and_transfers() -> None:
    view, _ = live()
    recorder = Recorder([view])
    with recorder.span("step", "FROM scratch", number=1, total=2, state="cached"):
        pass
    with recorder.span("step", "RUN make", number=2, total=2) as step:
        upload = recorder.begin("upload", "blob", step)
        upload.progress(5_000_000, 10_000_000)
        with recorder.span("run", "RUN make", step) as run:
            for number in range(9):
                run.line(f"compiling {number}")
            shown = drawn(view)
    assert "✓" in shown
    assert "cached" in shown
    assert "compiling 8" in shown
    assert "compiling 4" not in shown
    assert "upload of [2/2] RUN make" in shown
    assert "5 MB of 10 MB" in shown


def test_the_live_view_fits_the_screen_and_keeps_running_steps() -> None:
    view, _ = live(height=12)
    recorder = Recorder([view])
    for number in range(50):
        with recorder.span("step", f"RUN {number}", number=number):
            pass
    open_step = recorder.begin("step", "RUN last", number=51)
    for number in range(20):
        recorder.begin("upload", f"blob {number}")
    shown = drawn(view).rstrip().splitlines()
    open_step.end()
    assert len(shown) <= 10
    assert any("RUN last" in line for line in shown)


def test_the_live_view_leaves_the_output_of_a_failing_command() -> None:
    view, screen = live()
    with view:
        recorder = Recorder([view])
        recorder.warn("the index is locked")
        failing_run(recorder, 50)
    assert "line 49" in screen.getvalue()
    assert "line 9\n" not in screen.getvalue()
    assert "warning: the index is locked" in screen.getvalue()


def test_a_live_view_of_a_hundred_thousand_lines_costs_little() -> None:
    view, _ = live()
    with view:
        recorder = Recorder([view])
        with recorder.span("step", "RUN yes", number=1) as step, recorder.span("run", "RUN yes", step) as run:
            began = time.process_time()
            for _ in range(100_000):
                run.line("y" * 80)
            assert time.process_time() - began < 3.0
