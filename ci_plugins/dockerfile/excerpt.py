"""The lines around a place in a file, with a caret under it: what an error shows."""

from __future__ import annotations

from ci_plugins.errors import Location


def excerpt(text: str, location: Location, *, first_line: int = 1, before: int = 2, after: int = 1) -> str:
    """Number the lines around `location`; `text` begins with line `first_line` of the file. "" where it is outside.

    4 | FROM debian
    5 | RUNN make
      | ^
    """
    lines = text.removesuffix("\n").split("\n")
    index = location.line - first_line
    if not 0 <= index < len(lines):
        return ""
    shown = range(max(0, index - before), min(len(lines), index + after + 1))
    width = len(str(first_line + shown[-1]))
    result: list[str] = []
    for number in shown:
        line = lines[number].rstrip("\r")
        result.append(f"{first_line + number:{width}} | {line}".rstrip())
        if number == index:
            indent = "".join("\t" if char == "\t" else " " for char in line[: location.column - 1])
            result.append(f"{'':{width}} | {indent}^")
    return "\n".join(result).encode("utf-8", "replace").decode()
