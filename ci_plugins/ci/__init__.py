"""The CI system around a build: what it tells of the branch, the pull request and the fork that are built.

Every module but this one and `surroundings` is one CI: a pure function of the environment's variables (and of the file
with the event, on GitHub). Nothing here fails: what cannot be told is taken for what deserves less trust.
"""

from __future__ import annotations

from collections.abc import Mapping

from ci_plugins.ci import github, gitlab, jenkins
from ci_plugins.ci.surroundings import Surroundings

__all__ = ["Surroundings", "detect"]


def detect(environ: Mapping[str, str]) -> Surroundings | None:
    """None outside of a CI that is known here, and where a CI does not tell what is built."""
    return github.surroundings(environ) or gitlab.surroundings(environ) or jenkins.surroundings(environ)
