"""Shell patterns of `${NAME#pattern}`, `%` and `/`: `*` and `?`, without bracket expressions, as BuildKit has them.

Matched by walking sets of states, not by a regular expression with backtracking: time is bounded by
length of the value × length of the pattern.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

_ANY: Final = "*"
_ONE: Final = "?"

Token = tuple[bool, str]
"""(is a wildcard, character)."""


def parse_pattern(pattern: str) -> tuple[Token, ...]:
    """Raises ValueError for an escape of anything but `*`, `?`, a backslash, `}` and `/`."""
    tokens: list[Token] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char != "\\":
            tokens.append((char in (_ANY, _ONE), char))
            continue
        escaped = pattern[position : position + 1]
        if not escaped or escaped not in "*?\\}/":
            raise ValueError(f"invalid escape \\{escaped}")
        tokens.append((False, escaped))
        position += 1
    return tuple(tokens)


def _closure(tokens: Sequence[Token], states: set[int]) -> set[int]:
    """A star may also stand for nothing: add what can be reached that way."""
    reached = set(states)
    for state in states:
        while state < len(tokens) and tokens[state] == (True, _ANY):
            state += 1
            reached.add(state)
    return reached


def _ends(tokens: Sequence[Token], text: str, start: int) -> Iterator[int]:
    """Every `end`, ascending, for which the pattern matches text[start:end]. Wildcards do not match a newline."""
    states = _closure(tokens, {0})
    for position in range(start, len(text) + 1):
        if len(tokens) in states:
            yield position
        if position == len(text) or not states:
            return
        states = _closure(tokens, set(_after(tokens, states, text[position])))


def _after(tokens: Sequence[Token], states: set[int], char: str) -> Iterator[int]:
    for state in states:
        if state == len(tokens):
            continue
        wildcard, expected = tokens[state]
        if wildcard and char != "\n":
            yield state if expected == _ANY else state + 1
        elif not wildcard and char == expected:
            yield state + 1


def remove_prefix(pattern: str, value: str, *, longest: bool) -> str:
    ends = list(_ends(parse_pattern(pattern), value, 0))
    if not ends:
        return value
    return value[ends[-1] if longest else ends[0] :]


def remove_suffix(pattern: str, value: str, *, longest: bool) -> str:
    ends = list(_ends(parse_pattern(pattern)[::-1], value[::-1], 0))
    if not ends:
        return value
    return value[: len(value) - (ends[-1] if longest else ends[0])]


def substitute(pattern: str, replacement: str, value: str, *, every: bool) -> str:
    """Replace the first match, or every one, each as long as possible."""
    tokens = parse_pattern(pattern)
    pieces: list[str] = []
    position = copied = 0
    previous_end = -1
    while position <= len(value):
        end = max(_ends(tokens, value, position), default=None)
        if end is None or (end == position == previous_end):
            position += 1
            continue
        pieces += (value[copied:position], replacement)
        copied = previous_end = end
        if not every:
            break
        position = max(end, position + 1) if end == position else end
    return "".join(pieces) + value[copied:]
