"""What GitHub's variables and events mean for scopes. The values are those of its documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ci_plugins.ci import Surroundings, detect

REPOSITORY = {"full_name": "team/app", "default_branch": "main"}


def pull_request(origin: str | None = "team/app", *, target: str = "main", number: int = 7) -> dict[str, Any]:
    """The payload, cut down; `origin` is the repository of the head, None if somebody deleted it."""
    return {
        "number": number,
        "pull_request": {
            "number": number,
            "head": {"ref": "patch-1", "repo": origin and {"full_name": origin, "fork": origin != "team/app"}},
            "base": {"ref": target, "repo": {**REPOSITORY, "fork": False}},
        },
        "repository": REPOSITORY,
    }


def told(
    folder: Path,
    event: str,
    ref: str,
    payload: object = None,
    *,
    protected: str = "false",
    more: Mapping[str, str] | None = None,
) -> Surroundings:
    """`payload` None: an event that knows the repository and nothing else."""
    file = folder / "event.json"
    file.write_text(json.dumps({"repository": REPOSITORY} if payload is None else payload))
    environ = {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": event,
        "GITHUB_EVENT_PATH": str(file),
        "GITHUB_REF": ref,
        "GITHUB_REF_PROTECTED": protected,
        "GITHUB_RUN_ID": "1234",
        **(more or {}),
    }
    found = detect(environ)
    assert found is not None
    assert found.scope not in found.reads
    return found


def seen(found: Surroundings) -> tuple[str, ...]:
    return found.scope, *found.reads


def test_a_branch_reads_the_default_branch_and_that_reads_nothing(tmp_path: Path) -> None:
    assert seen(told(tmp_path, "push", "refs/heads/feature/x")) == ("branch/feature/x", "branch/main")
    main = told(tmp_path, "push", "refs/heads/main")
    assert seen(main) == ("branch/main",)
    assert (main.name, main.fork) == ("GitHub Actions", False)


@pytest.mark.parametrize("event", ["schedule", "workflow_dispatch", "release", "create"])
def test_other_events_that_build_what_the_ref_names(tmp_path: Path, event: str) -> None:
    assert seen(told(tmp_path, event, "refs/heads/main")) == ("branch/main",)
    assert seen(told(tmp_path, event, "refs/tags/v1.2")) == ("tag/v1.2", "branch/main")


def test_a_tag_is_no_branch_of_the_same_name(tmp_path: Path) -> None:
    assert seen(told(tmp_path, "push", "refs/tags/feature/x")) == ("tag/feature/x", "branch/main")


def test_a_schedule_without_a_repository_in_its_event_runs_on_the_default_branch(tmp_path: Path) -> None:
    found = told(tmp_path, "schedule", "refs/heads/main", {"schedule": "0 0 * * *"})
    assert (found.reads, found.protected) == ((), True)


def test_a_merge_group_reads_its_target(tmp_path: Path) -> None:
    payload = {"merge_group": {"base_ref": "refs/heads/release/2"}, "repository": REPOSITORY}
    name = "gh-readonly-queue/release/2/pr-7-abc"
    assert seen(told(tmp_path, "merge_group", f"refs/heads/{name}", payload)) == (
        f"branch/{name}",
        "branch/release/2",
        "branch/main",
    )


def test_a_pull_request_of_our_own(tmp_path: Path) -> None:
    found = told(tmp_path, "pull_request", "refs/pull/7/merge", pull_request(target="release/2"))
    assert seen(found) == ("pr/7", "branch/release/2", "branch/main")
    assert not found.fork
    onto_main = told(tmp_path, "pull_request", "refs/pull/7/merge", pull_request())
    assert seen(onto_main) == ("pr/7", "branch/main")


def test_a_pull_request_of_a_fork(tmp_path: Path) -> None:
    found = told(tmp_path, "pull_request", "refs/pull/7/merge", pull_request("stranger/app"))
    assert seen(found) == ("fork/stranger/app/pr/7", "branch/main")
    assert found.fork


def test_a_fork_that_was_deleted_is_a_fork(tmp_path: Path) -> None:
    found = told(tmp_path, "pull_request", "refs/pull/7/merge", pull_request(None))
    assert seen(found) == ("fork/unknown/pr/7", "branch/main")
    assert found.fork


def test_a_run_with_the_rights_of_the_target_branch_is_not_that_branch(tmp_path: Path) -> None:
    """pull_request_target: GITHUB_REF is the target branch, what is checked out may be the fork's."""
    strangers = told(tmp_path, "pull_request_target", "refs/heads/main", pull_request("stranger/app"), protected="true")
    assert seen(strangers) == ("fork/stranger/app/pr/7/target", "branch/main")
    assert strangers.fork
    assert seen(told(tmp_path, "pull_request_target", "refs/heads/main", pull_request())) == (
        "pr/7/target",
        "branch/main",
    )


@pytest.mark.parametrize("event", ["workflow_run", "issue_comment", "repository_dispatch", "check_run", ""])
def test_an_event_that_may_build_anything_has_a_scope_of_one_run(tmp_path: Path, event: str) -> None:
    found = told(tmp_path, event, "refs/heads/main", protected="true")
    assert seen(found) == ("run/1234", "branch/main")
    assert found.fork
    assert not found.trusts_foreign


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pull_request": 3, "repository": []}', b"[" * 100_000]
)
def test_a_damaged_event_is_the_less_trusted_case(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "damaged.json"
    file.write_bytes(content)
    environ = {"GITHUB_EVENT_PATH": str(file), "GITHUB_BASE_REF": "release"}
    found = told(tmp_path, "pull_request", "refs/pull/7/merge", more=environ)
    assert seen(found) == ("fork/unknown/pr/7", "branch/release")
    assert found.fork
    branch = told(tmp_path, "push", "refs/heads/feature", more=environ)
    # any branch may be the default branch
    assert (seen(branch), branch.protected, branch.fork) == (("branch/feature",), None, False)
    target = told(tmp_path, "pull_request_target", "refs/heads/release", more=environ)
    assert (seen(target), target.fork) == (("run/1234", "branch/release"), True)


@pytest.mark.parametrize("path", ["", "/nowhere/event.json", "/", "a\0b"])
def test_a_missing_event_is_as_a_damaged_one(tmp_path: Path, path: str) -> None:
    found = told(tmp_path, "pull_request", "refs/pull/7/merge", more={"GITHUB_EVENT_PATH": path})
    assert (found.scope, found.fork) == ("fork/unknown/pr/7", True)


@pytest.mark.parametrize("ref", ["", "main", "refs/heads/", "refs/pull/x/merge", "refs/notes/a"])
def test_a_ref_that_means_nothing(tmp_path: Path, ref: str) -> None:
    for event in ("push", "pull_request"):
        assert told(tmp_path, event, ref).scope == "run/1234"


def test_foreign_images_are_trusted_where_no_other_build_is_concerned(tmp_path: Path) -> None:
    def trusts(event: str, ref: str, protected: str, payload: object = None, **more: str) -> bool:
        return told(tmp_path, event, ref, payload, protected=protected, more=more).trusts_foreign

    assert trusts("push", "refs/heads/feature", "false")
    assert trusts("pull_request", "refs/pull/7/merge", "false", pull_request())
    assert not trusts("push", "refs/heads/feature", "true")
    assert not trusts("push", "refs/heads/feature", "")
    # everybody reads the default branch, protected branches too
    assert not trusts("push", "refs/heads/main", "false")
    assert not trusts("pull_request", "refs/pull/7/merge", "false", pull_request("stranger/app"))
    assert not trusts("push", "refs/heads/feature", "false", GITEA_ACTIONS="true")


def test_those_who_imitate_github_have_their_names(tmp_path: Path) -> None:
    for variable, name in (("GITEA_ACTIONS", "Gitea Actions"), ("FORGEJO_ACTIONS", "Forgejo Actions"), ("ACT", "act")):
        found = told(tmp_path, "push", "refs/heads/feature", more={variable: "true"})
        assert (found.name, found.scope, found.protected) == (name, "branch/feature", None)
