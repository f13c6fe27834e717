"""What of a cache a build sees, for the reports of builds and plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ci_plugins.events import Span
from ci_plugins.report.text import clean


@dataclass(frozen=True, slots=True)
class Scopes:
    """It writes `own` and reads it first, then `reads` in their order. `origin` says where they were given:
    "GitHub Actions", "--cache-scope", "default"."""

    own: str
    reads: tuple[str, ...]
    origin: str

    def __str__(self) -> str:
        said = "" if self.origin == "default" else f" ({self.origin})"
        return clean(", then ".join((self.own, *self.reads)) + said)

    def to_json(self) -> dict[str, Any]:
        return {"own": self.own, "reads": list(self.reads), "origin": self.origin}


def scopes_of(spans: Iterable[Span]) -> Scopes | None:
    """As the first look-up noted them; None before there was one."""
    for span in spans:
        get = span.attributes.get
        if span.kind == "cache" and "scope" in span.attributes:
            reads = str(get("reads", ""))
            origin = clean(str(get("scope_origin", "")))
            return Scopes(clean(str(get("scope"))), tuple(map(clean, reads.split("\n"))) if reads else (), origin)
    return None
