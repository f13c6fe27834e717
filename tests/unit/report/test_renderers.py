"""One timeline in every format: complete, valid, and harmless whatever a Dockerfile says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ci_plugins.events import Value
from ci_plugins.report import Timeline, derive, terminal, timing_html, timing_json, timing_markdown
from ci_plugins.report.files import write_reports
from ci_plugins.report.gantt import chart
from ci_plugins.report.text import clean, seconds, size
from tests.unit.report.samples import Planned, Steps, failing, many_steps, python_web, record

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/timing-schema.json").read_text())
HOSTILE = "RUN echo '<script>alert(1)</script>' | `x` \x1b[31mred\x1b]0;t\x07 \u202e \\| && echo \"a\"\tb"


def timeline(planned: list[Planned], *warnings: str, succeeded: bool = True) -> Timeline:
    recorder = record(planned)
    return derive(recorder.spans(), warnings=warnings, started_at=recorder.started_at, succeeded=succeeded)


def hostile() -> Timeline:
    steps = Steps(1, 2.0)
    steps.ran(HOSTILE, 0.0, 1.0, layer=(1.0, 1.5, 1000, 500), upload=(1.0, 1.6))
    steps.other("download", HOSTILE, 0.0, 0.2, bytes=5)
    steps.other("manifest", HOSTILE, 1.6, 1.7, destination=HOSTILE)
    steps.build.name = HOSTILE
    return timeline(steps.spans, HOSTILE)


SAMPLES: dict[str, Callable[[], Timeline]] = {
    "five": lambda: timeline(python_web()),
    "many": lambda: timeline(many_steps(120)),
    "failed": lambda: timeline(failing(), "the index is locked", succeeded=False),
    "hostile": hostile,
    "empty": lambda: derive([]),
}
samples = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)


# --- JSON -----------------------------------------------------------------------------------------------------------


@samples
def test_json_keeps_to_its_schema(sample: Callable[[], Timeline]) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(timing_json.render(sample())))


def test_json_says_what_happened() -> None:
    document = json.loads(timing_json.render(timeline(python_web())))
    assert document["push_tail_seconds"] == pytest.approx(0.629)
    assert document["steps"][1]["layer"]["compressed_bytes"] == 92_100_000
    assert document["steps"][1]["overlap_seconds"] == pytest.approx(1.25)
    assert document["started_at"] == "2025-06-15T15:06:40.000+00:00"
    # every step has exactly the documented fields
    assert set(document["steps"][0]) == set(SCHEMA["$defs"]["step"]["required"])


def test_the_scopes_of_the_cache_and_who_gave_them() -> None:
    def shown(**attributes: Value) -> tuple[dict[str, object] | None, str]:
        spans = [Planned("build", "app", 0.0, 2.0), Planned("cache", "look up", 0.1, 0.2, attributes=attributes)]
        built = timeline(spans)
        document = json.loads(timing_json.render(built))
        Draft202012Validator(SCHEMA).validate(document)
        return document["cache_scope"], terminal.render(built)

    assert shown()[0] is None
    found, said = shown(scope="pr/7", reads="branch/release\nbranch/main", scope_origin="GitHub Actions")
    assert found == {"own": "pr/7", "reads": ["branch/release", "branch/main"], "origin": "GitHub Actions"}
    assert "cache scope: pr/7, then branch/release, then branch/main (GitHub Actions)\n" in said
    found, said = shown(scope="default", reads="", scope_origin="default")
    assert found == {"own": "default", "reads": [], "origin": "default"}
    assert "cache scope" not in said
    _, said = shown(scope="branch/\x1b[31mred", reads="", scope_origin="--cache-scope")
    assert "cache scope: branch/red (--cache-scope)" in said


# --- terminal -------------------------------------------------------------------------------------------------------


@samples
@pytest.mark.parametrize("width", [30, 60, 80, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_the_table_fits_the_terminal(sample: Callable[[], Timeline], width: int, colour: bool) -> None:
    shown = terminal.render(sample(), width=width, colour=colour)
    assert shown.endswith("\n")
    for line in shown.splitlines():
        assert len(re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()) <= max(width, 46), line


def test_the_table_has_the_figures() -> None:
    shown = terminal.render(timeline(python_web()), width=140)
    row = next(line for line in shown.splitlines() if "apt-get install" in line)
    assert re.search(r"ran +8\.1 s +1\.1 s +1\.2 s +1\.2 s +258 MB → 92\.1 MB", row)
    assert "push tail 0.63 s" in shown
    assert "total 14.3 s" in shown
    assert "4 ran, 1 cached" in shown


def test_a_failed_step_stands_out() -> None:
    assert "FAILED" in terminal.render(SAMPLES["failed"](), width=100)
    assert "warning: the index is locked" in terminal.render(SAMPLES["failed"](), width=100)


# --- Markdown -------------------------------------------------------------------------------------------------------


@samples
def test_markdown_tables_have_as_many_cells_as_headings(sample: Callable[[], Timeline]) -> None:
    rows = [line for line in timing_markdown.render(sample()).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {8}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_a_code_span_holds_any_text(text: str) -> None:
    made = timing_markdown.code(text)
    fence = re.match("`+", made)
    assert fence is not None
    inner = made[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert inner.strip(" ") == text.strip(" ")


# --- HTML -----------------------------------------------------------------------------------------------------------


class _Balanced(HTMLParser):
    VOID = frozenset({"meta", "link", "br", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@samples
def test_the_page_is_well_formed_and_runs_nothing(sample: Callable[[], Timeline]) -> None:
    page = timing_html.render(sample())
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    for tag, attributes in parser.seen:
        assert tag not in ("script", "style", "iframe", "object", "img"), tag
        assert not any(name == "style" or name.startswith("on") for name in attributes), attributes
        assert "://" not in "".join(value or "" for value in attributes.values())


def test_the_chart_is_valid_svg_with_a_bar_for_everything_that_took_time() -> None:
    page = timing_html.render(timeline(python_web()))
    drawing = page[page.index('<svg class="chart"') : page.index("</svg>\n</div>") + 6]
    root = ElementTree.fromstring(drawing.replace("&ensp;", " "))
    titles = [title.text or "" for title in root.iter("title")]
    for expected in (
        "layer of [stage-0 2/5] RUN apt-get",
        "upload of layer of",
        "download of layer",
        "push tail 0.63 s",
    ):
        assert any(expected in title for title in titles), expected


@samples
def test_bars_stay_inside_the_chart(sample: Callable[[], Timeline]) -> None:
    made = chart(sample())
    for lane in made.lanes:
        for bar in lane.bars:
            assert bar.x >= 0
            assert bar.x + bar.width <= 100.3
            assert bar.y + bar.height <= lane.height
    for before, after in zip(made.lanes, made.lanes[1:], strict=False):
        assert before.y + before.height <= after.y
    assert all(0 <= tick.x <= 100.001 for tick in made.ticks)


# --- other people's text --------------------------------------------------------------------------------------------


def test_hostile_text_is_harmless_everywhere(tmp_path: Path) -> None:
    built = hostile()
    page = write_reports(built, tmp_path)
    texts = [(tmp_path / name).read_text() for name in ("timing.json", "timing.md", "timing.html")]
    texts.append(terminal.render(built, width=100))
    for text in texts:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
        assert "]0;t" not in text
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


@given(st.text())
def test_cleaned_text_is_one_line_without_controls(text: str) -> None:
    made = clean(text)
    assert "\n" not in made
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", made)
    assert clean(made) == made


# --- quantities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 ms"), (0.004, "4 ms"), (0.31, "0.31 s"), (8.13, "8.1 s"), (59.99, "1 m 00 s"), (3725, "1 h 02 m")],
)
def test_seconds(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (258_400_000, "258 MB"), (2.1e9, "2.1 GB")]
)
def test_sizes(value: float, shown: str) -> None:
    assert size(value) == shown


def test_reports_are_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "timing.md").write_text("old")
    write_reports(timeline(python_web()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["timing.css", "timing.html", "timing.json", "timing.md"]
    assert "old" not in (tmp_path / "timing.md").read_text()
