"""Durations as Go writes them (time.ParseDuration), which is what HEALTHCHECK takes."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_MAX_LENGTH: Final = 64


def parse_duration(text: str) -> int:
    """Nanoseconds of `1h30m`, `1.5s`, `-2ms`, `0`. Raises ValueError."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0
    position, total = 0, 0
    while len(text) <= _MAX_LENGTH and (match := _PART.match(digits, position)):
        total += int(Decimal(match[1]) * _UNITS[match[2]])
        position = match.end()
    if not position or position < len(digits) or total >= 2**63:
        raise ValueError(f"not a duration: {text!r}")
    return sign * total
