"""Spans → timeline: what overlapped, what the end waited for, what could be faster."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.events import Span
from ci_plugins.report import Timeline, derive
from ci_plugins.report.advice import advice
from ci_plugins.report.intervals import covered, shared, union
from tests.unit.report.samples import Planned, Steps, failing, many_steps, python_web, record


def timeline(planned: list[Planned], *, succeeded: bool = True) -> Timeline:
    recorder = record(planned)
    return derive(recorder.spans(), started_at=recorder.started_at, succeeded=succeeded)


def test_a_build_as_it_was() -> None:
    built = timeline(python_web())
    assert [step.state for step in built.steps] == ["cached", "ran", "ran", "ran", "ran"]
    large = built.steps[1]
    assert (large.place, large.instruction) == ("[stage-0 2/5]", "RUN")
    assert large.run_seconds == pytest.approx(8.1)
    assert large.layer is not None
    assert (large.layer.bytes, large.layer.compressed_bytes) == (258_400_000, 92_100_000)
    assert large.layer.seconds == pytest.approx(1.1)
    assert large.upload_seconds == pytest.approx(1.2)
    assert built.total_seconds == pytest.approx(14.3)
    assert built.uploaded_bytes == 92_100_000 + 9_900_000 + 6_100 + 2_300
    assert built.downloaded_bytes == 48_000_000
    assert built.image == "localhost:5000/shop/web:1.4"


def test_the_push_tail_runs_from_the_last_step_to_the_accepted_manifest() -> None:
    assert timeline(python_web()).push_tail_seconds == pytest.approx(14.1 - 13.471)


def test_the_push_tail_begins_when_the_command_ends_not_its_span() -> None:
    steps = Steps(1, 5.0)
    step = steps.ran("RUN make", 0.0, 2.0, layer=(2.0, 3.0, 1, 1))
    step.end = 3.5
    steps.other("manifest", "1", 4.0, 4.5)
    assert timeline(steps.spans).push_tail_seconds == pytest.approx(2.5)


def test_there_is_no_push_tail_without_a_push_or_after_a_failure() -> None:
    assert timeline([each for each in python_web() if each.kind != "manifest"]).push_tail_seconds is None
    assert timeline(python_web(), succeeded=False).push_tail_seconds is None


def test_overlap_is_with_other_steps_that_execute() -> None:
    steps = Steps(3, 10.0)
    steps.ran("RUN one", 0.0, 2.0, layer=(2.0, 5.0, 10, 5), upload=(2.5, 6.0))
    steps.cached("ENV A=b", 2.0)
    steps.ran("RUN two", 3.0, 4.0)
    assert [step.overlap_seconds for step in timeline(steps.spans).steps] == pytest.approx([1.0, 0.0, 0.0])


def test_steps_stand_in_the_order_of_the_file_whatever_ran_first() -> None:
    late, early = Steps(2, 5.0, stage="late"), Steps(2, 5.0, stage="early")
    first = late.ran("RUN c", 0.1, 1.0)
    early.ran("RUN a", 0.5, 1.0)
    early.ran("RUN b", 1.0, 2.0)
    first.attributes["line"] = 9
    early.spans[1].parent = early.spans[3].parent = late.build
    steps = timeline([*late.spans, *early.spans[1:]]).steps
    assert [step.text for step in steps] == ["RUN a", "RUN b", "RUN c"]


def test_a_failed_step_is_marked_and_what_it_stopped_too() -> None:
    planned = failing()
    planned[-2].late["error"] = "StepFailed"
    steps = Steps(2, 3.0)
    steps.ran("RUN a", 0.0, 1.0, error="StepFailed")
    steps.ran("RUN b", 0.0, 1.0, error="Interrupted")
    assert [step.text for step in timeline(planned, succeeded=False).failed] == ["RUN make | tee <log>"]
    assert [step.state for step in timeline(steps.spans).steps] == ["failed", "stopped"]


def test_the_critical_path_of_a_build_is_what_its_end_waited_for() -> None:
    path = timeline(python_web()).critical_path
    kinds = [wait.kind for wait in path if wait.seconds > 0.11]
    assert kinds == ["plan", "extract", "step", "step", "layer", "manifest", "other"]
    assert path[0].start == 0.0
    assert path[-1].end == pytest.approx(14.3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "layer", "upload", "run", "download", "manifest", "plan"]),
            st.floats(0, 50),
            st.floats(0, 10),
            st.integers(0, 5),
        ),
        max_size=25,
    )
)
def test_the_critical_path_has_no_gap_and_no_overlap(spans: list[tuple[str, float, float, int]]) -> None:
    made = [
        Span(number + 1, parent or None, kind, f"{kind} {number}", start, start + length, {})
        for number, (kind, start, length, parent) in enumerate(spans)
    ]
    built = derive(made)
    path = built.critical_path
    for before, after in pairwise(path):
        assert before.end == pytest.approx(after.start, abs=0.0021), "but for what clocks may disagree by"
    assert sum(wait.seconds for wait in path) == pytest.approx(built.total_seconds, abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12), st.data())
def test_interval_sums_agree_with_counting_seconds(raw: list[list[int]], data: st.DataObject) -> None:
    ours = [(a, b) for a, b in raw]
    theirs = data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12))
    inside = {second for a, b in ours for second in range(a, b)}
    other = {second for a, b in theirs for second in range(a, b)}
    assert covered(ours) == len(inside)
    assert shared(ours, [(a, b) for a, b in theirs]) == len(inside & other)
    assert all(before[1] < after[0] for before, after in zip(union(ours), union(ours)[1:], strict=False))


def test_parallelism_is_the_mean_number_of_things_under_way() -> None:
    steps = Steps(2, 4.0)
    steps.ran("COPY a a", 0.0, 2.0, layer=(1.0, 3.0, 1, 1))
    assert timeline(steps.spans).parallelism == pytest.approx(4 / 3)


# --- advice ---------------------------------------------------------------------------------------------------------


def test_a_copy_that_makes_runs_run_again_is_named() -> None:
    steps = Steps(4, 12.0)
    steps.cached("FROM x", 0.0)
    steps.cached("WORKDIR /app", 0.0)
    steps.ran("COPY . /app", 0.1, 0.2)
    steps.ran("RUN pip install -r requirements.txt", 0.2, 9.2)
    first = advice(timeline(steps.spans))[0]
    assert "COPY . /app was the first step that could not be reused" in first
    assert "9.0 s" in first


def test_a_long_push_tail_is_explained_by_its_layer() -> None:
    steps = Steps(1, 9.0)
    steps.ran("RUN make", 0.0, 1.0, layer=(1.0, 5.0, 2_000_000_000, 700_000_000), upload=(1.1, 8.5))
    steps.other("manifest", "1", 8.5, 8.6)
    assert any(
        "7.6 s" in sentence and "2 GB, 700 MB compressed" in sentence for sentence in advice(timeline(steps.spans))
    )


def test_nothing_is_said_where_there_is_nothing_to_gain() -> None:
    quick = Steps(2, 0.4)
    quick.ran("RUN true", 0.0, 0.3)
    assert advice(timeline(quick.spans)) == ()
    assert advice(timeline(failing(), succeeded=False)) == ()
    assert len(advice(timeline(many_steps(120)))) <= 2


def test_no_spans_are_a_timeline_too() -> None:
    empty = derive([])
    assert (empty.total_seconds, empty.steps, empty.critical_path) == (0.0, (), ())
