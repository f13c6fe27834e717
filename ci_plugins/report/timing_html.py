"""timing.html: one static page without scripts, with its style sheet in timing.css beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ci_plugins import __version__
from ci_plugins.report.advice import advice
from ci_plugins.report.gantt import chart
from ci_plugins.report.table import HEADINGS, figures, rows, waits
from ci_plugins.report.timeline import Timeline

_TEMPLATES = Path(__file__).parent / "templates"
_WAITS_SHOWN = 12


def render(timeline: Timeline) -> str:
    """Everything from outside is escaped by the template engine."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("timing.html").render(
        timeline=timeline,
        chart=chart(timeline),
        headings=HEADINGS,
        rows=rows(timeline),
        figures=figures(timeline),
        waits=waits(timeline, _WAITS_SHOWN),
        advice=advice(timeline),
        started=datetime.fromtimestamp(timeline.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        version=__version__,
    )


def stylesheet() -> str:
    return (_TEMPLATES / "timing.css").read_text()
