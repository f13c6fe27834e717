"""What a plan would fetch and take, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.context import Context
from ci_plugins.dockerfile import parse_dockerfile
from ci_plugins.oci import Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, chain_id, sha256_digest
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.explain import Explanation, explain
from ci_plugins.plan.forecast import AtHand, Forecast, forecast
from ci_plugins.plan.past import Past
from ci_plugins.plan.planner import Plan, make_plan
from ci_plugins.plan.steps import BaseImage
from ci_plugins.plan.weigh import Rates, Weigher
from ci_plugins.report import plan_json, plan_text
from ci_plugins.report.scopes import Scopes

AMD64 = Platform("linux", "amd64")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA = Path(__file__).parents[3] / "docs" / "plan-schema.json"
NOTHING = AtHand(blob=lambda blob: False, snapshot=lambda chain: False, contents=lambda diff_id: False)


def image(name: str, size: int = 50_000_000) -> BaseImage:
    config = ImageConfig(AMD64, config={"Env": ["PATH=/bin"]}, diff_ids=(sha256_digest(f"tar {name}".encode()),))
    layer = Descriptor(GZIP, sha256_digest(f"gz {name}".encode()), size)
    return BaseImage(name, Reference.parse(name), Manifest.of(config.descriptor(), [layer]), config)


class _NoStore:
    """A past in which nothing was built."""

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        return ()

    def images(self, scopes: Sequence[str]) -> tuple[()]:
        return ()


def planned(
    directory: Path, text: str, known: int, weigher: Weigher | None = None
) -> tuple[Plan, Explanation, dict[Digest, CacheRecord]]:
    """With records of the first `known` steps, each with a layer of 1 MB, 3 MB unpacked, and of 2 s."""
    dockerfile = parse_dockerfile(text)
    inputs = Inputs(
        platform=AMD64,
        target="",
        build_args={},
        network="host",
        image=lambda name, instruction: image(name),
        context=lambda: Context.open(directory, None),
    )
    evaluator = Evaluator(dockerfile, inputs)
    target, stages = evaluator.stage(dockerfile.target("")), evaluator.evaluated()
    records = {}
    for step in [step for stage in stages for step in stage.steps][:known]:
        blob = Descriptor(GZIP, sha256_digest(step.key.encode()), 1_000_000)
        layer = RecordedLayer(blob, sha256_digest(b"tar" + step.key.encode()), 3_000_000)
        records[step.key] = CacheRecord(
            step.key, step.parent, step.title, layer, "2026-01-01T00:00:00Z", 2.0, repositories=("r.example/app",)
        )
    plan = make_plan(stages, target, records, lambda record: True, *([weigher] if weigher else []))
    choices = weigher.choices if weigher else ()
    return plan, explain(plan, records, Past(_NoStore(), [], []), choices), records  # type: ignore[arg-type]


def foreseen(directory: Path, text: str, known: int, at_hand: AtHand = NOTHING) -> Forecast:
    plan, explanation, _ = planned(directory, text, known)
    return forecast(plan, explanation.steps, at_hand, Rates(10e6, 100e6), lambda step: None)


def fetched(found: Forecast) -> list[tuple[str, str]]:
    return [(fetch.source, fetch.purpose) for fetch in found.fetches]


APP = "FROM base\nRUN deps\nCOPY src /app\nRUN make\nCOPY src /again\n"
STAGES = "FROM tools AS build\nRUN one\nRUN two\nFROM base\nCOPY --from=build /a /a\nCOPY --from=other:1 /b /b\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        (APP, 4, []),
        (APP, 3, [("base", "contents"), *[("r.example/app", "contents")] * 3]),
        (APP, 2, [("base", "files"), *[("r.example/app", "files")] * 2]),
        (APP, 0, [("base", "files")]),
        (STAGES, 4, []),
        (STAGES, 3, [("base", "contents"), ("r.example/app", "contents"), ("other:1", "copied")]),
        (
            STAGES,
            2,
            [("tools", "copied"), *[("r.example/app", "copied")] * 2, ("base", "contents"), ("other:1", "copied")],
        ),
        (STAGES, 1, [("tools", "files"), ("r.example/app", "files"), ("base", "contents"), ("other:1", "copied")]),
        ("FROM base\nRUN one\nENV A=1\n", 1, []),
    ],
)
def test_only_what_executed_steps_need_is_fetched(
    context: Path, text: str, known: int, expected: list[tuple[str, str]]
) -> None:
    assert fetched(foreseen(context, text, known)) == expected


def test_what_is_here_is_not_fetched(context: Path) -> None:
    base = image("base")
    blob, diff_id = base.layers[0]
    has_blob = AtHand(lambda each: each == blob, lambda chain: False, lambda diff_id: False)
    has_snapshot = AtHand(lambda each: False, lambda chain: chain == diff_id, lambda diff_id: False)
    has_contents = AtHand(lambda each: False, lambda chain: False, lambda each: each == diff_id)
    assert fetched(foreseen(context, APP, 0, has_blob)) == []
    assert fetched(foreseen(context, APP, 0, has_snapshot)) == []
    assert fetched(foreseen(context, APP, 0, has_contents)) == [("base", "files")]
    assert ("base", "contents") not in fetched(foreseen(context, APP, 3, has_contents))
    plan, explanation, records = planned(context, APP, 2)
    first = records[plan.target.stage.steps[0].key].layer
    assert first is not None
    on_base = AtHand(lambda each: False, lambda chain: chain == chain_id(diff_id, first.diff_id), lambda each: False)
    found = forecast(plan, explanation.steps, on_base, Rates(), lambda step: None)
    assert fetched(found) == [("base", "files"), ("r.example/app", "files")]


def test_seconds_are_those_of_the_last_time(context: Path) -> None:
    plan, explanation, _ = planned(context, APP, 2)
    found = forecast(
        plan,
        explanation.steps,
        NOTHING,
        Rates(10e6, 100e6),
        lambda step: 8.0 if step.step.title == "RUN make" else None,
    )
    assert found.run_seconds == 8.0
    assert [step.step.title for step in found.unknown] == ["COPY src /again"]
    assert found.fetch_bytes == 52_000_000
    assert found.fetch_seconds == pytest.approx(5.2)


def test_the_plan_in_words_and_for_programs(context: Path) -> None:
    weigher = Weigher("auto", Rates(1e5, 1e8), lambda record: False)
    plan, explanation, _ = planned(context, APP, 2, weigher)
    found = forecast(plan, explanation.steps, NOTHING, Rates(), lambda step: None, weigher.choices)
    text = plan_text.render(explanation, found, left_out=["docs"], width=100)
    assert text.splitlines()[0] == (
        "expected 0 of 4 steps reused; first miss: RUN make because it was never built before"
    )
    assert "  run     2/5 RUN deps         running it again is preferred to fetching its layer; 4.0 s to" in text
    assert "not needed: stage docs" in text
    assert "fetch: 50 MB in 1 layer, about 1.0 s" in text
    assert (
        "pull or rebuild (--prefer auto): 0 of 2 known steps are kept; fetching the layers of all takes 20.0 s" in text
    )
    assert (
        "time: about 1.0 s and what was never run before: 2/5 RUN deps, 3/5 COPY src /app, 4/5 RUN make and 1" in text
    )
    assert max(map(len, text.splitlines()[:-2])) <= 160
    document = json.loads(
        plan_json.render(
            explanation, found, names=["app:1"], platform="linux/amd64", prefer="auto", left_out=[], warnings=["w"]
        )
    )
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)
    assert document["first_miss"] == 2
    assert document["never_run"] == [0, 1, 2, 3]
    assert [step["action"] for step in document["steps"]] == ["run", "append", "run", "append"]
    assert document["choices"][0]["pull_all_seconds"] == 20.0


def test_nothing_to_do(context: Path) -> None:
    plan, explanation, _ = planned(context, APP, 4)
    found = forecast(plan, explanation.steps, NOTHING, Rates(), lambda step: None)
    text = plan_text.render(explanation, found)
    assert text.startswith("expected 4 of 4 steps reused\n")
    assert text.endswith("fetch: nothing\ntime: about 0 ms, of which 0 ms for steps\n")
    scopes = Scopes("pr/7", ("branch/main",), "GitHub Actions")
    text = plan_text.render(explanation, found, scopes=scopes)
    assert text.endswith("steps\ncache scope: pr/7, then branch/main (GitHub Actions)\n")
