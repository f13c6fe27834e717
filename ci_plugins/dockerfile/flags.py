"""The `--name=value` flags of an instruction, checked against the ones it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ci_plugins.dockerfile.parser import Node
from ci_plugins.dockerfile.words import Word

Kind = Literal["text", "switch", "list"]


@dataclass(frozen=True, slots=True)
class Flags:
    """Values by name; `given` has the word of each flag, for the place of an error."""

    texts: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    lists: Mapping[str, tuple[Word, ...]] = field(default_factory=dict)
    given: Mapping[str, Word] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.texts.get(name, "")

    def switch(self, name: str) -> bool | None:
        return self.switches.get(name)

    def list(self, name: str) -> tuple[Word, ...]:
        return self.lists.get(name, ())


def take_flags(node: Node, known: Mapping[str, Kind]) -> Flags:
    """Raises DockerfileSyntaxError at the flag: unknown, given twice, without a value, not true or false."""
    texts: dict[str, str] = {}
    switches: dict[str, bool] = {}
    lists: dict[str, tuple[Word, ...]] = {}
    given: dict[str, Word] = {}
    for word in node.flags:
        name, equals, value = word.text[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            raise node.error(f"{node.name} has no flag --{name}", word, remedy=_remedy(node.name, name, known))
        if name in given and kind != "list":
            raise node.error(f"the flag --{name} is given twice", word)
        if (kind != "switch" and not equals) or (kind == "switch" and equals and not value):
            raise node.error(f"the flag --{name} has no value", word, remedy=f"Write it as --{name}=VALUE.")
        given[name] = word
        if kind == "switch":
            switches[name] = _truth(node, word, name, value)
        elif kind == "list":
            lists[name] = (*lists.get(name, ()), Word(value, word.offset))
        else:
            texts[name] = value
    return Flags(texts, switches, lists, given)


def _truth(node: Node, word: Word, name: str, value: str) -> bool:
    if value.lower() not in ("", "true", "false"):
        raise node.error(f"the flag --{name} is true or false, not {value!r}", word)
    return value.lower() != "false"


def _remedy(keyword: str, name: str, known: Mapping[str, Kind]) -> str:
    import difflib

    if near := difflib.get_close_matches(name, known, n=1):
        return f"Did you mean --{near[0]}?"
    names = ", ".join(f"--{flag}" for flag in known)
    return f"{keyword} takes {names}." if names else f"{keyword} takes no flags."
