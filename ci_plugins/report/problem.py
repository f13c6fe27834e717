"""An error as a person reads it: what, where, the place itself, what to do next."""

from __future__ import annotations

from ci_plugins.errors import CiPluginsError, ConfigError, Location
from ci_plugins.report.text import clean

_LINES_AROUND = 2
_WIDEST = 200


def describe_error(error: CiPluginsError) -> str:
    """One paragraph without a stack trace, ending with a newline."""
    lines = [f"error: {clean(str(error))}"]
    # a configuration file may hold credentials: it is named, not shown
    excerpt = error.excerpt or ("" if isinstance(error, ConfigError) else _excerpt(error.where))
    lines += [clean(line) for line in excerpt.splitlines()]
    if error.remedy:
        lines.append(f"next: {clean(error.remedy)}")
    return "\n".join(lines) + "\n"


def _excerpt(where: Location | None) -> str:
    """The line and its neighbours; nothing if the file cannot be read any more."""
    if where is None:
        return ""
    try:
        with open(where.file, encoding="utf-8", errors="replace") as file:
            text = file.read().splitlines()
    except OSError:
        return ""
    if not 1 <= where.line <= len(text):
        return ""
    first = max(where.line - _LINES_AROUND, 1)
    numbered = enumerate(text[first - 1 : where.line + _LINES_AROUND], first)
    return "\n".join(
        f"{'>' if number == where.line else ' '} {number:>4} | {line[:_WIDEST]}" for number, line in numbered
    )
