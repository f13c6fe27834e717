"""Golden folders: `golden/<case>/Dockerfile` with `expected.json` (what it parses to) or `error.txt` (how it is
refused).

`expected.json` leaves out fields that have their default; `lines` are the first and the last line of an instruction.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ci_plugins.dockerfile import Dockerfile, Instruction, load_dockerfile, parse_instruction
from ci_plugins.errors import DockerfileError

CASES = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir())


def dump(value: object) -> Any:
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    if isinstance(value, Instruction):
        head: dict[str, Any] = {"instruction": value.name, "lines": [value.location.line, value.end_line]}
    else:
        head = {"type": type(value).__name__}
    skipped = ("source", "location", "end_line", "escape")
    fields = [field for field in dataclasses.fields(value) if field.name not in skipped]
    shown = {field.name: getattr(value, field.name) for field in fields if getattr(value, field.name) != field.default}
    return head | {name: dump(item) for name, item in shown.items()}


def dump_file(dockerfile: Dockerfile) -> dict[str, Any]:
    return {
        "escape": dockerfile.escape,
        "directives": dict(dockerfile.directives),
        "global_args": dump(dockerfile.global_args),
        "stages": [[dump(stage.from_), *map(dump, stage.instructions)] for stage in dockerfile.stages],
    }


def describe(error: DockerfileError) -> str:
    parts = [type(error).__name__, str(error), error.excerpt, error.remedy]
    return "\n".join(line for part in parts if part for line in part.split("\n")) + "\n"


def all_instructions(dockerfile: Dockerfile) -> list[Instruction]:
    return [
        *dockerfile.global_args,
        *(item for stage in dockerfile.stages for item in (stage.from_, *stage.instructions)),
    ]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert sum((case / "error.txt").exists() for case in CASES) >= 15


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    if (case / "error.txt").exists():
        with pytest.raises(DockerfileError) as caught:
            load_dockerfile(case / "Dockerfile", shown_as="Dockerfile")
        assert describe(caught.value) == (case / "error.txt").read_text()
    else:
        dockerfile = load_dockerfile(case / "Dockerfile", shown_as="Dockerfile")
        assert dump_file(dockerfile) == json.loads((case / "expected.json").read_text())


@pytest.mark.parametrize("case", [c for c in CASES if (c / "expected.json").exists()], ids=lambda case: case.name)
def test_source_of_each_instruction_parses_to_itself(case: Path) -> None:
    for item in all_instructions(load_dockerfile(case / "Dockerfile")):
        assert parse_instruction(item.source, item.location, item.escape) == item


@pytest.mark.parametrize("case", [c for c in CASES if (c / "expected.json").exists()], ids=lambda case: case.name)
def test_source_is_what_stands_in_the_lines(case: Path) -> None:
    text = (case / "Dockerfile").read_bytes().decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.split("\n")
    for item in all_instructions(load_dockerfile(case / "Dockerfile")):
        there = "\n".join(lines[item.location.line - 1 : item.end_line])
        assert item.source == there[item.location.column - 1 :].rstrip("\r\n")
        assert item.source.upper().startswith(item.name)
