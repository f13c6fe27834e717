"""Text of other people made harmless, and quantities as people read them."""

from __future__ import annotations

import re

# CSI and OSC sequences, then two-character escapes (ECMA-48)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]")
# control characters, and the marks that reorder text on screen
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def clean(text: str) -> str:
    """One line without escape sequences and control characters: safe for a terminal, a log and a document."""
    if text.isprintable():
        return text
    return _UNSEEN.sub("", _ESCAPES.sub("", text.replace("\t", " ").replace("\r\n", "\n").replace("\n", " ")))


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def seconds(value: float) -> str:
    """0.004 → "4 ms", 0.31 → "0.31 s", 8.13 → "8.1 s", 75.2 → "1 m 15 s"."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 9.95:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


def size(value: float) -> str:
    """Decimal units, as docker prints them: 258_400_000 → "258 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * factor:
            number = value / factor
            return f"{number:.0f} {unit}" if number >= 99.95 else f"{number:.3g} {unit}"
    return f"{value:.0f} B"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole > 0 else "0 %"
