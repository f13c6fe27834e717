"""Pull or rebuild: figures decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.dockerfile import parse_dockerfile
from ci_plugins.events import Recorder, Span
from ci_plugins.oci import Descriptor, Platform, sha256_digest
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.steps import Stage
from ci_plugins.plan.weigh import Preference, Rates, Weigher
from ci_plugins.transfer.rates import load_rates, save_rates

RATES = Rates(download=100e6, extract=400e6)


def stage(text: str) -> Stage:
    def nothing(*_: object) -> object:
        raise AssertionError("no image and no context is needed here")

    inputs = Inputs(
        platform=Platform("linux", "amd64"),
        target="",
        build_args={},
        network="host",
        image=nothing,  # type: ignore[arg-type]
        context=nothing,  # type: ignore[arg-type]
    )
    dockerfile = parse_dockerfile(text)
    return Evaluator(dockerfile, inputs).stage(dockerfile.target())


def record(number: int, megabytes: float, seconds: float) -> CacheRecord:
    blob = Descriptor(
        "application/vnd.oci.image.layer.v1.tar+gzip", sha256_digest(b"%d" % number), int(megabytes * 1e6)
    )
    layer = RecordedLayer(blob, sha256_digest(b"%d.tar" % number), int(megabytes * 2e6)) if megabytes else None
    return CacheRecord(sha256_digest(b"key %d" % number), None, f"RUN {number}", layer, "2026-01-01T00:00:00Z", seconds)


def decide(
    records: list[CacheRecord],
    preference: Preference = "auto",
    at_hand: frozenset[str] = frozenset(),
    last: str = "RUN z",
) -> int:
    steps = "\n".join(f"RUN {number}" for number in range(len(records)))
    weigher = Weigher(preference, RATES, lambda item: item.instruction in at_hand)
    return weigher(stage(f"FROM scratch\n{steps}\n{last}\n"), records)


def test_a_small_layer_of_a_long_step_is_pulled() -> None:
    assert decide([record(0, 10, 60)]) == 1


def test_a_large_layer_of_a_quick_step_is_made_again() -> None:
    assert decide([record(0, 2000, 3)]) == 0


def test_the_cut_is_where_the_sum_is_least() -> None:
    """Pulling the first (long, small) and running the second (quick, large) again beats all or nothing."""
    assert decide([record(0, 10, 60), record(1, 2000, 3)]) == 1


def test_what_is_at_hand_costs_nothing() -> None:
    assert decide([record(0, 2000, 3), record(1, 2000, 3)], at_hand=frozenset({"RUN 0", "RUN 1"})) == 2
    assert decide([record(0, 2000, 3), record(1, 2000, 3)], at_hand=frozenset({"RUN 0"})) == 1


def test_without_a_run_to_come_nobody_needs_the_files() -> None:
    assert decide([record(0, 2000, 3)], last="ENV A=1") == 1
    assert decide([record(0, 2000, 3)], "rebuild", last="ENV A=1") == 1


@pytest.mark.parametrize(("preference", "kept"), [("pull", 2), ("rebuild", 0)])
def test_a_preference_is_followed(preference: Preference, kept: int) -> None:
    assert decide([record(0, 10, 60), record(1, 2000, 3)], preference) == kept


def test_rebuild_keeps_what_need_not_be_fetched() -> None:
    assert decide([record(0, 0, 1), record(1, 5, 1), record(2, 5, 1)], "rebuild", frozenset({"RUN 1"})) == 2


def test_the_choice_is_told() -> None:
    weigher = Weigher("auto", RATES, lambda item: False)
    weigher(stage("FROM scratch\nRUN 0\nRUN z\n"), [record(0, 2000, 3)])
    (choice,) = weigher.choices
    assert (choice.known, choice.reused, choice.pull_seconds, choice.rebuild_seconds) == (1, 0, 0.0, 3.0)


# --- rates ------------------------------------------------------------------------------------------


def span(kind: str, start: float, end: float, count: int) -> Span:
    return Span(1, None, kind, "x", start, end, {"bytes": count})


def test_rates_are_learnt_from_what_overlaps(tmp_path: Path) -> None:
    spans = [
        span("download", 0, 2, 100_000_000),
        span("download", 1, 2, 100_000_000),
        span("extract", 0, 1, 500_000_000),
    ]
    save_rates(tmp_path / "rates.json", Rates(100e6, 300e6), spans)
    assert load_rates(tmp_path / "rates.json") == Rates(100e6, 400e6)


def test_too_little_teaches_nothing(tmp_path: Path) -> None:
    save_rates(tmp_path / "rates.json", Rates(), [span("download", 0, 1, 1000), *Recorder().spans()])
    assert not (tmp_path / "rates.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"download": "x", "extract": 1}', '{"download": 0, "extract": 1}'])
def test_a_file_that_is_damaged_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.json").write_text(text)
    assert load_rates(tmp_path / "rates.json") == Rates()
    assert load_rates(tmp_path / "missing.json") == Rates()
