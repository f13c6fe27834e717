"""What a CI says of a build, and how scopes are named after it.

    branch/<name>                   a branch
    primary                         the default branch, where the CI tells that build so, and no other its name
    tag/<name>
    pr/<number>                     a pull request (merge request, change) of the repository's own
    fork/<repository>/pr/<number>   one that comes from another repository
    run/<id>                        one run of which nobody can tell whose code it builds

The word before the first slash is ours, so no branch can be named like a pull request, and no fork like a branch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

#: scope of the default branch of a CI that does not tell other builds its name
PRIMARY = "primary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A build in a CI. `scope` is what it writes and reads first; `reads` what it may read then, the nearest first:
    target branch, default branch; never a pull request's, a fork's or a single run's."""

    #: of the CI, for people
    name: str
    scope: str
    reads: tuple[str, ...]
    #: the ref is protected, or the default branch, which all others read; None if nobody says
    protected: bool | None
    #: the code is somebody else's, or it cannot be told whose it is
    fork: bool

    @classmethod
    def told(
        cls, name: str, scope: str, reads: Iterable[str], *, protected: bool | None = None, fork: bool = False
    ) -> Self:
        """`reads` may hold what is read twice, is its own, or is not known (empty)."""
        others = tuple(dict.fromkeys(read for read in reads if read and read != scope))
        return cls(name=name, scope=scope, reads=others, protected=protected, fork=fork)

    @property
    def trusts_foreign(self) -> bool:
        """Whether images built elsewhere may be used unasked: only where nothing comes of it that others trust."""
        return self.protected is False and not self.fork


def branch(name: str) -> str:
    """Empty for a branch that is not known."""
    return f"branch/{_storable(name)}" if name else ""


def tag(name: str) -> str:
    return f"tag/{_storable(name)}"


def pull_request(number: str) -> str:
    return f"pr/{_storable(number)}"


def fork(repository: str, number: str) -> str:
    """`repository` is the fork's. Where it is not known, the number still tells pull requests apart."""
    return f"fork/{_storable(repository or 'unknown')}/pr/{_storable(number)}"


def run(number: str) -> str:
    return f"run/{_storable(number or 'unknown')}"


def protection(said: str, *, name: str, default: str) -> bool | None:
    """Of the branch or tag `name`: `said` is the CI's "true" or "false". The default branch counts as protected in any
    case, and where it is not known, any branch may be it."""
    if said == "true" or (name and name == default):
        return True
    return False if said == "false" and default else None


def _storable(name: str) -> str:
    """A ref is any bytes, a store takes Unicode. No ref has a backslash of its own (git-check-ref-format(1))."""
    return name.encode("utf-8", "backslashreplace").decode()
