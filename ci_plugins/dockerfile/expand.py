"""Word expansion: `$NAME`, `${NAME…}`, quotes and escapes, as BuildKit's shell lexer does it."""

from __future__ import annotations

from collections.abc import Mapping


class Scope:
    """The variables in force at an instruction, and a record of which were asked for.

    `used` are names that had a value, `missing` names that had none: inputs of a key, and of a warning.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def get(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.missing if value is None else self.used).add(name)
        return value
