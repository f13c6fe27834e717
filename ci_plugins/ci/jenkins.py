"""Jenkins with multibranch projects: jenkins.io, "Branches and Pull Requests". The Branch API plugin sets variables.

Other projects do not say what they build. Nothing says whether a branch is protected, nor what the default branch is
called: only its own build knows that it is that.
"""

from __future__ import annotations

from collections.abc import Mapping

from ci_plugins.ci.surroundings import PRIMARY, Surroundings, branch, fork, pull_request, tag

_NAME = "Jenkins"


def surroundings(environ: Mapping[str, str]) -> Surroundings | None:
    """None elsewhere than on Jenkins, and in projects of one branch."""
    name = environ.get("BRANCH_NAME", "")
    if not name or not (environ.get("JENKINS_URL") or environ.get("JENKINS_HOME")):
        return None
    if number := environ.get("CHANGE_ID"):
        origin = environ.get("CHANGE_FORK", "")
        scope = fork(origin, number) if origin else pull_request(number)
        reads = branch(environ.get("CHANGE_TARGET", "")), PRIMARY
        return Surroundings.told(_NAME, scope, reads, fork=bool(origin))
    if version := environ.get("TAG_NAME"):
        return Surroundings.told(_NAME, tag(version), (PRIMARY,))
    if environ.get("BRANCH_IS_PRIMARY") == "true":
        return Surroundings.told(_NAME, PRIMARY, (), protected=True)
    return Surroundings.told(_NAME, branch(name), (PRIMARY,))
