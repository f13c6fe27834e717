"""WWW-Authenticate headers (RFC 9110 §11.6.1): lists of challenges whose parameters are lists too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SEPARATORS = re.compile(r"[\s,]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. Scheme and parameter names are lower case; a `token68` is dropped."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges of a header, in order; what cannot be read is left out, nothing is raised."""
    challenges: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        position = _end(_SEPARATORS, header, position)
        token = _TOKEN.match(header, position)
        if token is None:
            position += 1
            continue
        position = token.end()
        equals = _EQUALS.match(header, position)
        if equals is None:
            challenges.append((token[0].lower(), {}))
            position = _end(_TOKEN68, header, position)
            continue
        value, position = _value(header, equals.end())
        if challenges:
            challenges[-1][1].setdefault(token[0].lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in challenges]


def _value(header: str, position: int) -> tuple[str, int]:
    if quoted := _QUOTED.match(header, position):
        return _ESCAPED.sub(r"\1", quoted[1]), quoted.end()
    if token := _TOKEN.match(header, position):
        return token[0], token.end()
    return "", position


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
