"""Heredocs: which words of a line open one. The rules are BuildKit's, its surprises included: the text of a RUN is
not understood as shell, so `$(( 1 << 2 ))` opens a document named 2 there and here."""

from __future__ import annotations

import re
from typing import Final

from ci_plugins.dockerfile.expand import heredoc_words, raw_words
from ci_plugins.dockerfile.instructions import Heredoc
from ci_plugins.errors import ExpansionError

_OPENING: Final = re.compile(r"(?:[0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_LEADING_TABS: Final = re.compile(r"^\t+", re.MULTILINE)


def parse_opening(word: str) -> Heredoc | None:
    """`<<EOF`, `<<-EOF`, `3<<"EOF"` as a heredoc without content; None for any other word.

    Raises ExpansionError for quotes that are not closed.
    """
    match = _OPENING.fullmatch(word)
    if not match or not match[2]:
        return None
    names = heredoc_words(match[2], keep_quotes=False)
    if len(names) != 1:
        return None
    as_written = heredoc_words(match[2], keep_quotes=True)[0]
    quoted = as_written.count("'") + as_written.count('"') != names[0].count("'") + names[0].count('"')
    return Heredoc(names[0], "", expand=not quoted, strip_tabs=match[1] == "-")


def openings(line: str) -> tuple[Heredoc, ...]:
    """The heredocs a logical line opens, in order. Raises ExpansionError for quotes in a delimiter not closed."""
    try:
        words = raw_words(line)
    except ExpansionError:  # a line that cannot be split into words opens none: it is the shell's to judge
        return ()
    return tuple(heredoc for word in words if (heredoc := parse_opening(word)))


def is_opening(word: str) -> bool:
    try:
        return parse_opening(word) is not None
    except ExpansionError:
        return False


def without_tabs(content: str) -> str:
    return _LEADING_TABS.sub("", content)
