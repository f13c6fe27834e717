""".dockerignore: which file applies, and what it excludes (moby/patternmatcher/ignorefile, Dockerfile reference)."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.errors import ContextError, Location
from ci_plugins.layer.copy_patterns import PatternMatcher

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """One pattern: cleaned, with its "!" if it is an exception, and the line it stands in (from 1)."""

    pattern: str
    line: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """The rules of one ignore file; `file` is None where there is none and nothing is excluded."""

    file: Path | None
    rules: tuple[IgnoreRule, ...]
    matcher: PatternMatcher

    def explain(self, path: str) -> str:
        """Which rule excludes `path`, as a clause for a sentence; "" if none does."""
        number = self.matcher.deciding(path)
        if self.file is None or number is None or self.rules[number].pattern.startswith("!"):
            return ""
        rule = self.rules[number]
        return f"line {rule.line} of {self.file.name} ({rule.pattern}) excludes {path}"


def load_ignore(root: Path, dockerfile: Path | None) -> Ignore:
    """The rules for a context: `<Dockerfile>.dockerignore` beside the Dockerfile counts before `.dockerignore` in the
    root. Raises ContextError for an unreadable file or a malformed pattern."""
    candidates = [root / ".dockerignore"]
    if dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(dockerfile.name + ".dockerignore"))
    for file in candidates:
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ContextError(f"cannot read {file}: {error.strerror}") from error
        return parse_ignore(content, file)
    return Ignore(None, (), PatternMatcher(()))


def parse_ignore(content: bytes, file: Path) -> Ignore:
    """Raises ContextError naming the line of a malformed pattern."""
    rules: list[IgnoreRule] = []
    text = content.removeprefix(_BOM).decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        rule = IgnoreRule(_cleaned(pattern), number)
        try:
            PatternMatcher((rule.pattern,))
        except ValueError as error:
            raise ContextError(
                f"malformed pattern {error}",
                where=Location(str(file), number),
                remedy="Correct the pattern: * ? [a-z] ** and a leading ! are special, a backslash makes them plain.",
            ) from error
        rules.append(rule)
    return Ignore(file, tuple(rules), PatternMatcher([rule.pattern for rule in rules]))


def _cleaned(pattern: str) -> str:
    exception = pattern.startswith("!")
    rest = pattern[1:].strip() if exception else pattern
    if rest:
        rest = posixpath.normpath(rest)
        # normpath keeps two leading slashes, which POSIX leaves to the system
        rest = rest.lstrip("/") or "/"
    return "!" + rest if exception else rest
