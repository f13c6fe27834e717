"""The report directory: every format, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ci_plugins.errors import state_errors
from ci_plugins.report import timing_html, timing_json, timing_markdown
from ci_plugins.report.timeline import Timeline
from ci_plugins.storage.files import write_atomically


def write_reports(timeline: Timeline, directory: Path) -> Path:
    """Write timing.json, timing.md, timing.html and its timing.css; returns the page. Raises StateError, DiskFull."""
    texts = {
        "timing.json": timing_json.render(timeline),
        "timing.md": timing_markdown.render(timeline),
        "timing.css": timing_html.stylesheet(),
        "timing.html": timing_html.render(timeline),
    }
    with state_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(directory / name, text.encode())
    return directory / "timing.html"
