"""--chmod: octal or symbolic (Dockerfile reference, "COPY --chmod"; symbols as chmod(1) of BSD, with umask 0)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ci_plugins.errors import DockerfileError

_RWX = {"u": 0o700, "g": 0o070, "o": 0o007}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0}
_PERMISSION = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")


@dataclass(frozen=True, slots=True)
class Chmod:
    """A parsed --chmod; one that was not given changes nothing."""

    octal: int | None = None
    #: (classes of "ugo", operator, permissions), in order
    actions: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Chmod:
        """Raises DockerfileError."""
        if not text:
            return cls()
        if re.fullmatch("[0-7]+", text) and int(text, 8) <= 0o7777:
            return cls(octal=int(text, 8))
        actions: list[tuple[str, str, str]] = []
        for clause in text.split(","):
            parts = _CLAUSE.match(clause)
            if parts is None:
                raise DockerfileError(
                    f"--chmod={text}: not a mode",
                    remedy="Write an octal number up to 7777 (0755) or symbols (u=rwX,go=rX).",
                )
            actions += [(parts[1], operator, permissions) for operator, permissions in _ACTION.findall(parts[2])]
        return cls(actions=tuple(actions))

    def apply(self, mode: int, directory: bool) -> int:
        """Permission bits (0o7777) of a copied file or directory."""
        if self.octal is not None:
            return self.octal
        changed = mode
        for classes, operator, permissions in self.actions:
            changed = _apply(changed, mode, directory, classes, operator, permissions)
        return changed

    @property
    def created_directory(self) -> int:
        """Mode of a directory that COPY has to make. Like BuildKit since 0.21 an octal mode counts for it too."""
        return 0o755 if self.octal is None else self.octal & 0o777


def _apply(mode: int, original: int, directory: bool, classes: str, operator: str, permissions: str) -> int:
    who = "ugo" if not classes or "a" in classes else classes
    settable = 0
    for name in who:
        settable |= _RWX[name] | _SPECIAL[name]
    bits = 0
    for permission in permissions:
        if permission in _SHIFT:
            copied = mode >> _SHIFT[permission] & 0o7
            bits |= sum(copied << _SHIFT[name] for name in set(who))
        elif permission == "X":
            bits |= 0o111 & settable if directory or original & 0o111 else 0
        elif permission == "t":
            bits |= 0o1000 if set(who) - {"o"} else 0
        else:
            bits |= _PERMISSION[permission] & settable
    if operator == "=":
        return mode & ~settable | bits
    return mode | bits if operator == "+" else mode & ~bits
