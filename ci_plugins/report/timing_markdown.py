"""timing.md: the timing table for a pull request comment or a job summary."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ci_plugins.report.advice import advice
from ci_plugins.report.table import HEADINGS, figures, rows, waits
from ci_plugins.report.text import shorten
from ci_plugins.report.timeline import Timeline

_TITLE = 90
_WAITS_SHOWN = 8
_ALIGN = ("---", "---", "--:", "--:", "--:", "--:", "--:")


def render(timeline: Timeline) -> str:
    verdict = "built" if timeline.succeeded else "**failed**"
    image = f" {code(timeline.image)}" if timeline.image else ""
    parts = [f"### Image{image} {verdict}", " · ".join(f"{name} **{value}**" for name, value in figures(timeline))]
    if timeline.steps:
        parts.append("\n".join(_table(timeline)))
    path = waits(timeline, _WAITS_SHOWN)
    if path:
        parts.append("\n".join(["The end waited for:\n", *(f"1. {code(name)} {took}" for name, took in path)]))
    parts += [f"> {_sentence(sentence)}" for sentence in advice(timeline)]
    if timeline.warnings:
        parts.append("\n".join(["Warnings:\n", *(f"- {code(text)}" for text in timeline.warnings)]))
    return "\n\n".join(parts) + "\n"


def _table(timeline: Timeline) -> Iterable[str]:
    yield _line(HEADINGS)
    yield _line(_ALIGN)
    for row in rows(timeline):
        title, state, *figures_of_step = row.cells
        yield _line(
            (_in_cell(code(shorten(title, _TITLE))), f"**{state}**" if state == "FAILED" else state, *figures_of_step)
        )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def code(text: str) -> str:
    """A code span that holds exactly this text: the fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _in_cell(markdown: str) -> str:
    """GitHub's tables split at every pipe that has no backslash, even in a code span."""
    return markdown.replace("|", "\\|")


def _sentence(text: str) -> str:
    """Plain text: what would be markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&@])", r"\\\1", text)
