"""The timing table for a terminal or a log."""

from __future__ import annotations

import io
import textwrap
from typing import Literal

from ci_plugins.report.advice import advice
from ci_plugins.report.table import HEADINGS, figures, rows, waits
from ci_plugins.report.text import shorten
from ci_plugins.report.timeline import Timeline

#: Columns given up on narrow terminals, first one first.
_GIVEN_UP = ("overlap", "layer", "compress", "upload")
_NARROWEST_STEP = 24
_WAITS_SHOWN = 4
_STYLES = {"ran": "", "cached": "green", "FAILED": "bold red"}


def render(timeline: Timeline, *, width: int = 100, colour: bool = False) -> str:
    """Lines of at most `width` columns, ending with a newline. With colour it is a rich table."""
    cells = [row.cells for row in rows(timeline)]
    columns = _columns(cells, width)
    table = _rich_table(cells, columns, width) if colour else _plain_table(cells, columns, width)
    return (table if cells else "") + _summary(timeline, width)


def _columns(cells: list[tuple[str, ...]], width: int) -> list[int]:
    """Indexes of the columns that are shown: those with content, as far as they fit."""
    shown = [place for place in range(len(HEADINGS)) if place < 3 or any(row[place] for row in cells)]
    for name in _GIVEN_UP:
        place = HEADINGS.index(name)
        if _fixed(cells, shown) + _NARROWEST_STEP > width and place in shown:
            shown.remove(place)
    return shown


def _widths(cells: list[tuple[str, ...]], columns: list[int]) -> dict[int, int]:
    return {place: max(len(HEADINGS[place]), *(len(row[place]) for row in cells), 0) for place in columns}


def _fixed(cells: list[tuple[str, ...]], columns: list[int]) -> int:
    return sum(wide + 2 for place, wide in _widths(cells, columns).items() if place) if cells else 0


def _plain_table(cells: list[tuple[str, ...]], columns: list[int], width: int) -> str:
    if not cells:
        return ""
    widths = _widths(cells, columns)
    widths[0] = max(4, min(widths[0], width - _fixed(cells, columns)))
    lines = [HEADINGS, *cells]
    return "".join(_plain_line(line, columns, widths) + "\n" for line in lines) + "\n"


def _plain_line(line: tuple[str, ...], columns: list[int], widths: dict[int, int]) -> str:
    parts = [f"{shorten(line[0], widths[0]):<{widths[0]}}"]
    for place in columns[1:]:
        align = "<" if place == 1 else ">"
        parts.append(f"{line[place]:{align}{widths[place]}}")
    return "  ".join(parts).rstrip()


def _rich_table(cells: list[tuple[str, ...]], columns: list[int], width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = _widths(cells, columns)
    # a rule of two spaces between columns is what _fixed counts with
    widths[0] = max(4, min(widths[0], width - _fixed(cells, columns)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for place in columns:
        justify: Literal["left", "right"] = "left" if place < 2 else "right"
        table.add_column(HEADINGS[place], justify=justify, overflow="ellipsis", no_wrap=True, width=widths[place])
    for row in cells:
        style = _STYLES.get(row[1], "")
        dim = "dim" if row[1] == "cached" else ""
        table.add_row(*(Text(row[place], style=style if place == 1 else dim) for place in columns))
    console = Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get() + "\n"


def _summary(timeline: Timeline, width: int) -> str:
    lines = [" · ".join(f"{name} {value}" for name, value in figures(timeline))]
    path = waits(timeline, _WAITS_SHOWN)
    if len(path) > 1:
        lines.append("waited for: " + " → ".join(f"{shorten(name, 40)} {took}" for name, took in path))
    if timeline.scopes and timeline.scopes.origin != "default":
        lines.append(f"cache scope: {timeline.scopes}")
    lines += [f"hint: {sentence}" for sentence in advice(timeline)]
    lines += [f"warning: {text}" for text in timeline.warnings]
    wrapped = (textwrap.wrap(line, max(width, 20), subsequent_indent="  ", break_on_hyphens=False) for line in lines)
    return "\n".join(part for parts in wrapped for part in parts) + "\n"
