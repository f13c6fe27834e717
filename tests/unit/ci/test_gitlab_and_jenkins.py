"""What the variables of GitLab and Jenkins mean for scopes."""

from __future__ import annotations

import pytest

from ci_plugins.ci import Surroundings, detect

GITLAB = {"CI": "true", "GITLAB_CI": "true", "CI_DEFAULT_BRANCH": "main", "CI_PIPELINE_ID": "99"}
REQUEST = {
    "CI_MERGE_REQUEST_IID": "7",
    "CI_MERGE_REQUEST_PROJECT_ID": "10",
    "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "10",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "release",
    # the name of the source branch, which anybody may choose
    "CI_COMMIT_REF_NAME": "main",
    "CI_COMMIT_REF_PROTECTED": "false",
}
JENKINS = {"JENKINS_URL": "https://ci.example/", "BUILD_ID": "3"}


def gitlab(**variables: str) -> Surroundings:
    found = detect({**GITLAB, **variables})
    assert found is not None
    assert found.name == "GitLab CI"
    return found


def jenkins(**variables: str) -> Surroundings:
    found = detect({**JENKINS, **variables})
    assert found is not None
    assert found.name == "Jenkins"
    return found


def seen(found: Surroundings) -> tuple[str, ...]:
    return found.scope, *found.reads


# --- GitLab -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branch", "said", "protected"),
    [("main", "false", True), ("release", "true", True), ("feature", "false", False), ("feature", "", None)],
)
def test_a_branch_on_gitlab(branch: str, said: str, protected: bool | None) -> None:
    found = gitlab(CI_COMMIT_BRANCH=branch, CI_COMMIT_REF_PROTECTED=said)
    assert seen(found) == (("branch/main",) if branch == "main" else (f"branch/{branch}", "branch/main"))
    assert (found.protected, found.trusts_foreign) == (protected, protected is False)


def test_a_tag_on_gitlab() -> None:
    assert seen(gitlab(CI_COMMIT_TAG="v1", CI_COMMIT_REF_NAME="v1")) == ("tag/v1", "branch/main")


def test_a_merge_request() -> None:
    found = gitlab(**REQUEST)
    assert seen(found) == ("pr/7", "branch/release", "branch/main")
    assert not found.fork
    assert found.trusts_foreign


def test_a_merge_request_of_a_fork_in_whichever_project_it_runs() -> None:
    origin = {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "11", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "stranger/app"}
    for project in ("10", "11"):
        found = gitlab(**{**REQUEST, **origin, "CI_PROJECT_ID": project})
        assert seen(found) == ("fork/stranger/app/pr/7", "branch/release", "branch/main")
        assert found.fork
        assert not found.trusts_foreign


def test_a_merge_request_that_does_not_tell_where_it_comes_from() -> None:
    for missing in ("CI_MERGE_REQUEST_PROJECT_ID", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID"):
        found = gitlab(**{**REQUEST, missing: ""})
        assert found.scope.startswith("fork/")
        assert found.fork


def test_a_name_alone_is_no_branch() -> None:
    found = gitlab(CI_COMMIT_REF_NAME="main", CI_COMMIT_REF_PROTECTED="true")
    assert seen(found) == ("run/99", "branch/main")
    assert found.fork


# --- Jenkins ----------------------------------------------------------------------------------------------------------


def test_branches_on_jenkins() -> None:
    assert seen(jenkins(BRANCH_NAME="main", BRANCH_IS_PRIMARY="true")) == ("primary",)
    assert seen(jenkins(BRANCH_NAME="feature")) == ("branch/feature", "primary")
    assert seen(jenkins(BRANCH_NAME="v1", TAG_NAME="v1")) == ("tag/v1", "primary")


def test_a_change_on_jenkins() -> None:
    change = {"BRANCH_NAME": "PR-7", "CHANGE_ID": "7", "CHANGE_TARGET": "release"}
    assert seen(jenkins(**change)) == ("pr/7", "branch/release", "primary")
    strangers = jenkins(**change, CHANGE_FORK="stranger/app")
    assert seen(strangers) == ("fork/stranger/app/pr/7", "branch/release", "primary")
    assert strangers.fork
    # a branch that somebody calls so
    assert jenkins(BRANCH_NAME="PR-7").scope == "branch/PR-7"


def test_jenkins_never_says_that_a_branch_is_not_protected() -> None:
    assert not any(jenkins(BRANCH_NAME="feature", **more).trusts_foreign for more in ({}, {"CHANGE_ID": "7"}))


# --- neither ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"CI": "true"},
        {"CI": "true", "BRANCH_NAME": "main", "BUILD_ID": "1"},
        # a project of one branch: nobody says what it builds
        {**JENKINS, "GIT_BRANCH": "origin/main"},
        {"GITHUB_ACTIONS": "false", "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_NAME": "push"},
        {"GITLAB_CI": "", "CI_COMMIT_BRANCH": "main"},
    ],
)
def test_nothing_is_told_elsewhere(environ: dict[str, str]) -> None:
    assert detect(environ) is None
