"""What the CI tells, in the place of defaults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ci_plugins.options.arguments import Given
from ci_plugins.options.declared import OPTIONS
from ci_plugins.options.model import FLAG, Origin, Source

_SCOPES = frozenset({"cache-scope", "cache-read"})


@dataclass(frozen=True, slots=True)
class Detected:
    """Values of the options of these names. `by` is the CI, for people."""

    by: str
    cache_scope: str
    cache_read: tuple[str, ...]
    trust_foreign: bool

    def beside(self, given: Iterable[Given]) -> tuple[Given, ...]:
        """All of it, or nothing where a person gave a scope to write or to read: they mean other lines of trust than
        these, and what is right for these would leak something from one to the other."""
        if any(each.option.name in _SCOPES for each in given):
            return ()
        known = {option.name: option for option in OPTIONS if option.detected}
        told = [("cache-scope", self.cache_scope), *(("cache-read", scope) for scope in self.cache_read)]
        told.append(("trust-foreign", FLAG.format(self.trust_foreign)))
        return tuple(Given(known[name], text, Origin(Source.DETECTED, self.by)) for name, text in told)
