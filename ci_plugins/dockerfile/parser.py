"""First pass: text → logical lines → nodes (keyword, flags, rest, heredocs).

Parser directives, comments, line continuations and heredocs are dealt with here and nowhere else. Every character of a
logical line can be traced back to its line and column in the file.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ci_plugins.dockerfile.excerpt import excerpt
from ci_plugins.dockerfile.expand import SPACE
from ci_plugins.dockerfile.heredoc import openings, without_tabs
from ci_plugins.dockerfile.instructions import Heredoc
from ci_plugins.dockerfile.words import Word, json_array, split_command, split_flags
from ci_plugins.errors import DockerfileError, DockerfileSyntaxError, ExpansionError, Location

_DIRECTIVE: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*")
_DIRECTIVES: Final = ("syntax", "escape", "check")
_TAKES_HEREDOCS: Final = ("RUN", "COPY", "ADD")
_UNDECODABLE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line. `marks` say which offsets of `text` are which (line, column) of the file, ascending."""

    text: str
    marks: tuple[tuple[int, int, int], ...]
    file: str

    def location(self, offset: int) -> Location:
        start, line, column = self.marks[max(0, bisect_right(self.marks, offset, key=lambda mark: mark[0]) - 1)]
        return Location(self.file, line, column + offset - start)


@dataclass(frozen=True, slots=True)
class Node:
    """One instruction before its rest is understood. `whole` is the document it came from, for error excerpts."""

    keyword: Word
    flags: tuple[Word, ...]
    rest: Word
    line: Line
    source: str
    end_line: int
    escape: str
    whole: str
    first_line: int
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def name(self) -> str:
        return self.keyword.text.upper()

    @property
    def location(self) -> Location:
        return self.line.location(self.keyword.offset)

    def nested(self) -> Node:
        """The instruction in the rest of an ONBUILD."""
        keyword, rest = split_command(self.rest.text, self.rest.offset)
        flags, rest = split_flags(rest)
        return replace(self, keyword=keyword, flags=flags, rest=rest)

    def error(
        self,
        message: str,
        at: Word | None = None,
        *,
        kind: type[DockerfileError] = DockerfileSyntaxError,
        remedy: str | None = None,
    ) -> DockerfileError:
        """An error placed at a word of this instruction, at its keyword where none is given."""
        where = self.line.location((at or self.keyword).offset)
        return kind(message, where=where, excerpt=excerpt(self.whole, where, first_line=self.first_line), remedy=remedy)


@dataclass(frozen=True, slots=True)
class Parsed:
    nodes: tuple[Node, ...]
    escape: str
    directives: Mapping[str, str]


def parse_nodes(text: str, file: str) -> Parsed:
    """A whole Dockerfile. Raises DockerfileSyntaxError."""
    reader = _Reader(text.removeprefix("\ufeff"), file)
    reader.read_directives()
    return Parsed(tuple(reader.nodes()), reader.escape, reader.directives)


def parse_node(source: str, location: Location, escape: str) -> Node:
    """The text of a single instruction that stands at `location`. Raises DockerfileSyntaxError."""
    reader = _Reader(source, location.file, escape, first_line=location.line, first_column=location.column)
    nodes = reader.nodes()
    if len(nodes) != 1:
        raise DockerfileSyntaxError(f"expected one instruction, found {len(nodes)}: {source!r}", where=location)
    return nodes[0]


@dataclass
class _Reader:
    """Goes through the physical lines once; `index` is the next one to read."""

    text: str
    file: str
    escape: str = "\\"
    first_line: int = 1
    first_column: int = 1
    directives: dict[str, str] = field(default_factory=dict)
    index: int = 0

    def __post_init__(self) -> None:
        self.lines = self.text.split("\n")
        if not self.lines[-1]:
            self.lines.pop()

    def fail(self, message: str, index: int, column: int = 1, remedy: str | None = None) -> DockerfileSyntaxError:
        where = self.place(index, column)
        shown = excerpt(self.text, where, first_line=self.first_line)
        return DockerfileSyntaxError(message, where=where, excerpt=shown, remedy=remedy)

    def place(self, index: int, column: int) -> Location:
        shift = self.first_column - 1 if index == 0 else 0
        return Location(self.file, self.first_line + index, column + shift)

    # -- directives -------------------------------------------------------------------------------------------------

    def read_directives(self) -> None:
        """`# name=value` lines at the very top; the first line that is none ends them."""
        while self.index < len(self.lines):
            line = self.lines[self.index].strip(SPACE)
            match = _DIRECTIVE.fullmatch(line[1:].lstrip(SPACE)) if line.startswith("#") else None
            if not match or match[1].lower() not in _DIRECTIVES:
                return
            self.directive(match[1].lower(), match[2])
            self.index += 1

    def directive(self, name: str, value: str) -> None:
        if name in self.directives:
            raise self.fail(f"the parser directive {name} is given twice", self.index)
        if name == "escape" and value not in ("\\", "`"):
            raise self.fail(f"the escape character can be \\ or `, not {value!r}", self.index)
        self.directives[name] = value
        if name == "escape":
            self.escape = value

    # -- instructions -----------------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        nodes = []
        while self.index < len(self.lines):
            if node := self.node():
                nodes.append(node)
        return nodes

    def node(self) -> Node | None:
        """Read one logical line, and the heredocs it opens; None for empty lines and comments."""
        line, last = self.logical_line()
        if not line.text.strip(SPACE):
            return None
        keyword, rest = split_command(line.text, 0)
        flags, rest = split_flags(rest)
        start = line.location(keyword.offset)
        node = Node(
            keyword=keyword, flags=flags, rest=rest, line=line, source="", end_line=0, escape=self.escape,
            whole=self.text, first_line=self.first_line,
        )  # fmt: skip
        heredocs = self.heredocs(node)
        last = self.index - 1 if heredocs else last
        source = self.source(start, last)
        return replace(node, heredocs=heredocs, source=source, end_line=self.first_line + last)

    def source(self, start: Location, last: int) -> str:
        index = start.line - self.first_line
        column = start.column - (self.first_column if index == 0 else 1)
        return "\n".join([self.lines[index][column:], *self.lines[index + 1 : last + 1]]).rstrip("\r\n")

    def decodable(self, index: int) -> None:
        """Bytes that are not UTF-8 arrive as lone surrogates: harmless in a comment, refused elsewhere."""
        if match := _UNDECODABLE.search(self.lines[index]):
            raise self.fail("not UTF-8", index, match.start() + 1, "Save the file in the encoding UTF-8.")

    def logical_line(self) -> tuple[Line, int]:
        """Join continued lines, without the comments and empty lines between them; also the last index that counts."""
        pieces: list[str] = []
        marks: list[tuple[int, int, int]] = []
        length, last, continued, first = 0, self.index, True, True
        while continued and self.index < len(self.lines):
            line = self.lines[self.index].rstrip("\r")
            stripped = line.lstrip(SPACE)
            self.index += 1
            if stripped.startswith("#") or not stripped:
                continued = not first
                continue
            self.decodable(self.index - 1)
            piece, continued = self.without_continuation(stripped if first else line)
            place = self.place(self.index - 1, len(line) - len(stripped) + 1 if first else 1)
            marks.append((length, place.line, place.column))
            pieces.append(piece)
            length += len(piece)
            last, first = self.index - 1, False
        return Line("".join(pieces), tuple(marks), self.file), last

    def without_continuation(self, line: str) -> tuple[str, bool]:
        """An escape character that ends the line, blanks after it allowed, continues it unless it is doubled."""
        text = line.rstrip(" \t")
        if text.endswith(self.escape) and not text.endswith(self.escape * 2):
            return text[:-1], True
        return line, False

    # -- heredocs ---------------------------------------------------------------------------------------------------

    def heredocs(self, node: Node) -> tuple[Heredoc, ...]:
        if "<<" not in node.line.text:
            return ()
        holder = node.nested() if node.name == "ONBUILD" and node.rest.text else node
        if holder.name not in _TAKES_HEREDOCS or json_array(holder.rest.text) is not None:
            return ()
        try:
            found = openings(node.line.text)
        except ExpansionError as error:
            raise node.error(f"bad heredoc delimiter: {error.message}") from error
        return tuple(self.body(node, heredoc) for heredoc in found)

    def body(self, node: Node, heredoc: Heredoc) -> Heredoc:
        content: list[str] = []
        while self.index < len(self.lines):
            line = self.lines[self.index]
            self.decodable(self.index)
            self.index += 1
            end = line.rstrip("\r")
            if (end.lstrip("\t") if heredoc.strip_tabs else end) == heredoc.name:
                text = "".join(content)
                return replace(heredoc, content=without_tabs(text) if heredoc.strip_tabs else text)
            content.append(line + "\n")
        raise node.error(
            f"the heredoc {heredoc.name} is never closed",
            remedy=f"End it with a line that holds {heredoc.name} and nothing else.",
        )
