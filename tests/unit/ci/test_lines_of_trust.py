"""What holds between any two builds of one project, whatever branches, tags and forks are called."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_plugins.ci import Surroundings, detect
from ci_plugins.ci.surroundings import branch

#: also such that look like scopes of others
NAMES = st.sampled_from(
    [
        "main",
        "release",
        "pr/7",
        "pr-7",
        "fork/stranger/app/pr/7",
        "7",
        "run/1",
        "primary",
        "tag/v1",
        "branch/main",
        "7/target",
        "caf\udce9",
    ]
) | st.text(st.characters(exclude_characters="\0\\", exclude_categories=[]), min_size=1, max_size=12)
NUMBERS = st.integers(1, 3)
OWNERS = st.sampled_from(["stranger/app", "other/app", "pr/7", "branch/main"])
SAID = st.sampled_from(["true", "false", ""])
DEFAULT = "main"


@st.composite
def on_github(draw: st.DrawFn, folder: Path) -> Surroundings | None:
    event = draw(
        st.sampled_from(["push", "schedule", "release", "pull_request", "pull_request_target", "workflow_run"])
    )
    number, origin = draw(NUMBERS), draw(OWNERS | st.sampled_from(["team/app", None]))
    target, name = draw(NAMES), draw(NAMES)
    payload: object = {
        "repository": {"default_branch": DEFAULT},
        "pull_request": {
            "number": number,
            "head": {"ref": name, "repo": origin and {"full_name": origin}},
            "base": {"ref": target, "repo": {"full_name": "team/app"}},
        },
    }
    refs = {"pull_request": f"refs/pull/{number}/merge", "pull_request_target": f"refs/heads/{target}"}
    ref = refs.get(event, f"refs/{draw(st.sampled_from(['heads', 'tags']))}/{name}")
    path = folder / f"{draw(st.integers(0, 1 << 60))}.json"
    if draw(st.booleans()):
        path.write_text(json.dumps(payload))
    return detect(
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(path),
            "GITHUB_REF": ref,
            "GITHUB_BASE_REF": target,
            "GITHUB_REF_PROTECTED": draw(SAID),
            "GITHUB_RUN_ID": str(draw(st.integers(0, 1 << 60))),
        }
    )


@st.composite
def on_gitlab(draw: st.DrawFn) -> Surroundings | None:
    kind = draw(st.sampled_from(["CI_COMMIT_BRANCH", "CI_COMMIT_TAG", "CI_MERGE_REQUEST_IID", "CI_COMMIT_REF_NAME"]))
    path = draw(OWNERS)
    source = "10" if kind == "CI_MERGE_REQUEST_IID" and draw(st.booleans()) else f"of {path}"
    return detect(
        {
            "GITLAB_CI": "true",
            "CI_DEFAULT_BRANCH": DEFAULT,
            kind: str(draw(NUMBERS)) if kind == "CI_MERGE_REQUEST_IID" else draw(NAMES),
            "CI_COMMIT_REF_PROTECTED": draw(SAID),
            "CI_MERGE_REQUEST_PROJECT_ID": "10",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": source,
            "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "team/app" if source == "10" else path,
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": draw(NAMES),
            "CI_PIPELINE_ID": str(draw(st.integers(0, 1 << 60))),
        }
    )


@st.composite
def on_jenkins(draw: st.DrawFn) -> Surroundings | None:
    environ = {"JENKINS_URL": "https://ci.example", "BRANCH_NAME": draw(NAMES)}
    match draw(st.sampled_from(["branch", "primary", "tag", "change", "fork"])):
        case "primary":
            environ["BRANCH_IS_PRIMARY"] = "true"
        case "tag":
            environ["TAG_NAME"] = environ["BRANCH_NAME"]
        case "change" | "fork" as kind:
            environ |= {"CHANGE_ID": str(draw(NUMBERS)), "CHANGE_TARGET": draw(NAMES)}
            environ |= {"CHANGE_FORK": draw(OWNERS)} if kind == "fork" else {}
    return detect(environ)


def hold(builds: list[Surroundings | None]) -> None:
    told = [build for build in builds if build is not None]
    assert len(told) == len(builds)
    for build in told:
        # what is read of others is a branch: nobody's pull request, fork or single run
        assert all(read.startswith("branch/") or read == "primary" for read in build.reads)
        assert build.fork == build.scope.startswith(("fork/", "run/"))
        assert build.scope not in build.reads
        assert len(set(build.reads)) == len(build.reads)
        # any store can hold it
        assert build.scope.encode().decode() == build.scope
        # nothing of an image built elsewhere comes to what others trust
        assert not (
            build.trusts_foreign and (build.fork or build.protected is not False or build.scope == "branch/main")
        )
    for one, other in itertools.permutations(told, 2):
        if one.fork:
            assert one.scope not in other.reads
            # the same line of trust at most: a fork's pull request, run again
            assert one.scope != other.scope or other.fork


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("ci", ["GitHub", "GitLab", "Jenkins"])
def test_a_forks_records_are_seen_by_nobody_else(ci: str, tmp_path: Path, data: st.DataObject) -> None:
    one = {"GitHub": on_github(tmp_path), "GitLab": on_gitlab(), "Jenkins": on_jenkins()}[ci]
    hold(data.draw(st.lists(one, min_size=2, max_size=5)))


@given(NAMES)
def test_no_branch_or_tag_is_named_like_a_pull_request(name: str) -> None:
    for environ, kind in (
        ({"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_REF": f"refs/heads/{name}"}, "branch/"),
        ({"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_REF": f"refs/tags/{name}"}, "tag/"),
        ({"GITLAB_CI": "true", "CI_COMMIT_BRANCH": name}, "branch/"),
        ({"GITLAB_CI": "true", "CI_COMMIT_TAG": name}, "tag/"),
        ({"JENKINS_URL": "x", "BRANCH_NAME": name}, "branch/"),
    ):
        found = detect(environ)
        assert found
        assert found.scope.startswith(kind)


@given(st.lists(NAMES, unique=True, max_size=5))
def test_branches_of_different_names_have_different_scopes(names: list[str]) -> None:
    assert len({branch(name) for name in names}) == len(names)


def test_a_branch_that_is_no_utf8_has_a_scope_that_every_store_takes() -> None:
    found = detect({"GITLAB_CI": "true", "CI_COMMIT_BRANCH": b"caf\xe9/\xc3\xbc x".decode(errors="surrogateescape")})
    assert found
    assert found.scope == "branch/caf\\udce9/ü x"
