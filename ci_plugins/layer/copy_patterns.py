"""Two pattern languages of Docker: Go's `filepath.Match` (COPY sources) and moby/patternmatcher (.dockerignore,
--exclude, --parents), which adds `**`, exceptions with `!`, and matches what lies below a matching directory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SPECIAL = "*?["


def has_wildcards(pattern: str) -> bool:
    """Whether BuildKit looks for matches instead of taking the name as written; a backslash hides what follows it."""
    escaped = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in _SPECIAL:
            return True
    return False


def compile_glob(pattern: str) -> re.Pattern[str]:
    """`filepath.Match` as an expression for `fullmatch`. Raises ValueError for a malformed pattern."""
    return re.compile(_translate(pattern, double_star=False), re.DOTALL)


def _translate(pattern: str, double_star: bool) -> str:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and double_star and pattern.startswith("*", at):
            at += 1
            if at < len(pattern) and pattern[at] == "/":
                at += 1
            out.append("(?:.*/)?" if at < len(pattern) else ".*")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, at = _character_class(pattern, at)
            out.append(text)
        elif char == "\\":
            if at == len(pattern):
                raise ValueError("it ends in a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _character_class(pattern: str, at: int) -> tuple[str, int]:
    """What follows a "[": the expression and where it ends. "/" is matched by no class."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", at)):
        low, at = _class_character(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_character(pattern, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")  # Go: a class that matches nothing, not an error
    members = "".join(ranges)
    if negated:
        return f"[^/{members}]", at + 1
    return (f"(?!/)[{members}]" if members else "(?!)"), at + 1


def _class_character(pattern: str, at: int) -> tuple[str, int]:
    if at < len(pattern) and pattern[at] == "\\":
        at += 1
    elif at < len(pattern) and pattern[at] in "-]":
        raise ValueError(f"unexpected {pattern[at]!r} in [ ]")
    if at >= len(pattern):
        raise ValueError("a [ is not closed")
    return pattern[at], at + 1


@dataclass(frozen=True, slots=True)
class _Pattern:
    exception: bool
    expression: str
    regex: re.Pattern[str]
    #: one a path element up to the first that may span several
    elements: tuple[re.Pattern[str] | None, ...]


#: For each pattern whether it matched a directory or one above it; () at the root.
MatchInfo = tuple[bool, ...]


class PatternMatcher:
    """An ordered list of patterns; the last that matches a path or a directory above it decides.

    Like BuildKit (patternmatcher's MatchesUsingParentResults) the caller walks down and hands each directory's result
    to what is below it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Cleaned patterns, "/"-separated, relative. Raises ValueError naming the malformed one."""
        self._patterns = tuple(_compile(pattern) for pattern in patterns)
        self.has_exceptions = any(pattern.exception for pattern in self._patterns)
        together = "|".join(f"(?:{p.expression})" for p in self._patterns)
        self._any = re.compile(together or "(?!)", re.DOTALL)
        self._none: MatchInfo = (False,) * (len(self._patterns) if self.has_exceptions else 1)

    def match(self, path: str, parent: MatchInfo = ()) -> tuple[bool, MatchInfo]:
        """Whether `path` is matched, and what its children need; `parent` is the result for the directory it is in."""
        if True not in parent and self._any.fullmatch(path) is None:
            return False, self._none
        if not self.has_exceptions:
            return True, (True,)
        matched = False
        info: list[bool] = []
        for number, pattern in enumerate(self._patterns):
            hit = bool(parent) and parent[number]
            # a pattern that could not change the verdict is not looked at, and not remembered either: so does BuildKit
            if not hit and pattern.exception == matched:
                hit = pattern.regex.fullmatch(path) is not None
            info.append(hit)
            if hit:
                matched = not pattern.exception
        return matched, tuple(info)

    def may_match_below(self, directory: str) -> bool:
        """Whether some pattern without "!" could match a path inside `directory` by name."""
        return self._reaches_below(directory, exceptions=False)

    def may_except_below(self, directory: str) -> bool:
        """Whether some exception could bring back a path inside an excluded `directory`."""
        return self.has_exceptions and self._reaches_below(directory, exceptions=True)

    def deciding(self, path: str) -> int | None:
        """Number of the pattern that decides about `path` (the last that matches it or a directory above it)."""
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        for number in range(len(self._patterns) - 1, -1, -1):
            if any(self._patterns[number].regex.fullmatch(name) for name in above):
                return number
        return None

    def _reaches_below(self, directory: str, exceptions: bool) -> bool:
        parts = directory.split("/")
        return any(_reaches(p.elements, parts) for p in self._patterns if p.exception == exceptions)


def _compile(text: str) -> _Pattern:
    exception = text.startswith("!")
    pattern = text[1:] if exception else text
    if not pattern:
        raise ValueError("a pattern of nothing but !")
    try:
        compile_glob(pattern)
        expression = _leading_double_star(pattern) or _translate(pattern, double_star=True)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    elements = (None if set("[\\") & set(e) or "**" in e else compile_glob(e) for e in pattern.split("/"))
    return _Pattern(exception, expression, re.compile(expression, re.DOTALL), tuple(elements))


def _leading_double_star(pattern: str) -> str | None:
    """`**name` without a slash means any path ending in name, unlike `**` anywhere else."""
    rest = pattern[2:]
    if pattern.startswith("**") and rest and rest[0] not in "/*" and not set("*?[]\\") & set(rest):
        return ".*" + re.escape(rest)
    return None


def _reaches(elements: tuple[re.Pattern[str] | None, ...], parts: list[str]) -> bool:
    for element, part in zip(elements, parts, strict=False):
        if element is None:
            return True
        if not element.fullmatch(part):
            return False
    return len(elements) > len(parts)
