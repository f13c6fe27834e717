"""Builds in GitHub Actions, on empty runners with one registry between them: who sees whose records.

What makes a layer is the test's own: `COPY`s onto `scratch`, so whatever is reused was found in the registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.harness import Built, Cli
from tests.servers import DockerRegistry

MAIN = {"full_name": "team/app", "default_branch": "main"}
Run = Callable[..., Built]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY requirements /\nCOPY source /\n")
    (directory / "requirements").write_text("one\n")
    (directory / "source").write_text("one\n")
    return directory


@pytest.fixture
def run(tmp_path: Path, context: Path, registry: DockerRegistry, request: pytest.FixtureRequest) -> Run:
    """A build of `source` in the surroundings of `environ`, on a runner that has nothing."""
    numbers = iter(range(100))
    tag = f"{registry.host}/ci-scopes/{request.node.name.replace('_', '-')}"

    def build(source: str, environ: Mapping[str, str], *arguments: str) -> Built:
        (context / "source").write_text(f"{source}\n")
        folder = tmp_path / f"runner{next(numbers)}"
        (folder / "home").mkdir(parents=True)
        return Cli(folder / "home", folder / "state").build(context, *arguments, tag=f"{tag}:1", env=environ)

    return build


@pytest.fixture
def github(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The variables of an event, and its file."""
    numbers = iter(range(100))

    def environment(
        event: str, ref: str, *, origin: str = "", protected: bool = False, number: int = 7
    ) -> dict[str, str]:
        payload: dict[str, object] = {"repository": MAIN}
        if origin:
            head = {"ref": "patch-1", "repo": {"full_name": origin}}
            payload["pull_request"] = {"number": number, "head": head, "base": {"ref": "main", "repo": MAIN}}
        file = tmp_path / f"event{next(numbers)}.json"
        file.write_text(json.dumps(payload))
        return {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": event,
            "GITHUB_EVENT_PATH": str(file),
            "GITHUB_REF": ref,
            "GITHUB_REF_PROTECTED": "true" if protected else "false",
        }

    return environment


def reused(built: Built) -> int:
    return [step["state"] for step in built.timing["steps"]].count("cached")


def scope(built: Built) -> tuple[str, ...]:
    told = built.timing["cache_scope"]
    assert told["origin"] == "GitHub Actions"
    return told["own"], *told["reads"]


def test_pull_requests_read_the_branch_and_the_branch_reads_none(
    run: Run, github: Callable[..., dict[str, str]]
) -> None:
    main = github("push", "refs/heads/main", protected=True)
    ours = github("pull_request", "refs/pull/7/merge", origin="team/app")
    first = run("one", main)
    assert (scope(first), reused(first)) == (("branch/main",), 0)
    changed = run("two", ours)
    assert (scope(changed), reused(changed)) == (("pr/7", "branch/main"), 1)
    assert reused(run("two", ours)) == 2
    assert reused(run("two", main)) == 1, "main went on from what a pull request wrote"
    # and now it has built it itself
    assert reused(run("two", github("push", "refs/heads/feature/ü x"))) == 2


def test_a_forks_records_are_seen_by_nobody(run: Run, github: Callable[..., dict[str, str]]) -> None:
    main = github("push", "refs/heads/main")
    fork = github("pull_request", "refs/pull/7/merge", origin="stranger/app")
    run("one", main)
    strange = run("strange", fork)
    assert (scope(strange), reused(strange)) == (("fork/stranger/app/pr/7", "branch/main"), 1)
    assert reused(run("strange", fork)) == 2
    others = {
        # named so that it might be taken for the fork's
        "branch": github("push", "refs/heads/fork/stranger/app/pr/7"),
        "tag": github("push", "refs/tags/fork/stranger/app/pr/7"),
        "own pull request": github("pull_request", "refs/pull/7/merge", origin="team/app"),
        "another of the fork's": github("pull_request", "refs/pull/8/merge", origin="stranger/app", number=8),
        "with the rights of main": github("pull_request_target", "refs/heads/main", origin="stranger/app"),
        "after the fork's run": {**github("workflow_run", "refs/heads/main"), "GITHUB_RUN_ID": "99"},
        "main": main,
    }
    for name, environ in others.items():
        assert reused(run("strange", environ)) == 1, name


def test_a_scope_somebody_gives_replaces_what_the_ci_tells(run: Run, github: Callable[..., dict[str, str]]) -> None:
    run("one", github("push", "refs/heads/main"))
    alone = run("one", github("pull_request", "refs/pull/7/merge", origin="team/app"), "--cache-scope", "mine")
    assert reused(alone) == 0
    assert alone.timing["cache_scope"] == {"own": "mine", "reads": [], "origin": "--cache-scope"}


def test_a_plan_says_which_scopes_it_read(
    cli: Cli, context: Path, github: Callable[..., dict[str, str]], registry: DockerRegistry
) -> None:
    environ = github("pull_request", "refs/pull/7/merge", origin="team/app")
    plan = ("plan", context, "--tag", f"{registry.host}/ci-scopes/plan:1", "--state", cli.state)
    said = cli(*plan, env=environ).stdout
    assert said.endswith("cache scope: pr/7, then branch/main (GitHub Actions)\n")
    document = json.loads(cli(*plan, "--json", env=environ).stdout)
    assert document["cache_scope"] == {"own": "pr/7", "reads": ["branch/main"], "origin": "GitHub Actions"}
    assert cli(*plan).stdout.endswith("cache scope: default\n")
