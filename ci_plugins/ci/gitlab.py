"""GitLab CI/CD. docs.gitlab.com: "Predefined CI/CD variables reference"."""

from __future__ import annotations

from collections.abc import Mapping

from ci_plugins.ci.surroundings import Surroundings, branch, fork, protection, pull_request, run, tag

_NAME = "GitLab CI"


def surroundings(environ: Mapping[str, str]) -> Surroundings | None:
    """None elsewhere than on GitLab."""
    if environ.get("GITLAB_CI") != "true":
        return None
    default = environ.get("CI_DEFAULT_BRANCH", "")
    target = environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "")
    reads = branch(target), branch(default)
    name = environ.get("CI_COMMIT_TAG") or environ.get("CI_COMMIT_BRANCH") or ""
    protected = protection(environ.get("CI_COMMIT_REF_PROTECTED", ""), name=name, default=default)
    if number := environ.get("CI_MERGE_REQUEST_IID"):
        scope, foreign = _merge_request(environ, number)
        return Surroundings.told(_NAME, scope, reads, protected=protected, fork=foreign)
    if environ.get("CI_COMMIT_TAG"):
        return Surroundings.told(_NAME, tag(name), reads, protected=protected)
    if environ.get("CI_COMMIT_BRANCH"):
        return Surroundings.told(_NAME, branch(name), reads, protected=protected)
    # CI_COMMIT_REF_NAME alone may be the name of a fork's branch
    return Surroundings.told(_NAME, run(environ.get("CI_PIPELINE_ID", "")), reads, fork=True)


def _merge_request(environ: Mapping[str, str], number: str) -> tuple[str, bool]:
    """Its scope, and whether it comes from a fork. The pipeline of a fork's runs in either project."""
    project, source = (environ.get(f"CI_MERGE_REQUEST_{which}PROJECT_ID") for which in ("", "SOURCE_"))
    if project and project == source:
        return pull_request(number), False
    return fork(environ.get("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH") or source or "", number), True
