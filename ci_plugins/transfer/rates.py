"""What fetching costs on this machine, learnt from the builds before: for the choice between pull and rebuild."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ci_plugins.events import Span
from ci_plugins.plan.weigh import Rates
from ci_plugins.storage.files import write_atomically

#: less than this says more of latency than of rate, in bytes
_ENOUGH = 4 << 20
#: how much the newest build counts
_WEIGHT = 0.5


def load_rates(path: Path) -> Rates:
    """What was measured before; the default where nothing was, or the file is not what it should be."""
    try:
        value = json.loads(path.read_bytes())
        download, extract = float(value["download"]), float(value["extract"])
    except (OSError, ValueError, KeyError, TypeError):
        return Rates()
    return Rates(download, extract) if download > 0 and extract > 0 else Rates()


def save_rates(path: Path, before: Rates, spans: Iterable[Span]) -> None:
    """Learn from a build's spans. Raises OSError."""
    spans = list(spans)
    download, extract = _rate(spans, "download"), _rate(spans, "extract")
    if download is None and extract is None:
        return
    rates = {"download": _mixed(before.download, download), "extract": _mixed(before.extract, extract)}
    write_atomically(path, json.dumps(rates).encode())


def _mixed(before: float, now: float | None) -> float:
    return before if now is None else before * (1 - _WEIGHT) + now * _WEIGHT


def _rate(spans: Iterable[Span], kind: str) -> float | None:
    """Bytes per second while at least one of the kind was under way."""
    total, busy, until = 0, 0.0, 0.0
    for span in sorted((span for span in spans if span.kind == kind), key=lambda span: span.start):
        total += int(span.attributes.get("bytes", 0))
        busy += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return total / busy if total >= _ENOUGH and busy > 0 else None
