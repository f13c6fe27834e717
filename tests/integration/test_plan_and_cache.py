"""`plan` and `cache` after real builds: what they say, and that saying it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from jsonschema import Draft202012Validator

from tests.harness import Cli, RegistryTraffic
from tests.servers import DockerRegistry

SCHEMA = Path(__file__).parents[2] / "docs" / "plan-schema.json"
DOCKERFILE = """\
FROM {base} AS tools
RUN echo tool > /tool
FROM {base}
RUN head -c 300000 /dev/urandom > /large
COPY src /app
ARG VERSION=1.2
RUN echo $VERSION > /version
COPY --from=tools /tool /tool
CMD ["cat", "/version"]
"""


@pytest.fixture
def context(tmp_path: Path, base_image: str) -> Path:
    directory = tmp_path / "context"
    (directory / "src").mkdir(parents=True)
    (directory / "Dockerfile").write_text(DOCKERFILE.format(base=base_image))
    for name in ("main.py", "util.py"):
        (directory / "src" / name).write_text("1\n")
    return directory


def plan(cli: Cli, context: Path, *arguments: str) -> dict[str, Any]:
    """The plan for programs, checked against its schema; the state is as it was."""
    before = listing(cli.state)
    done = cli("plan", context, "--json", "--state", cli.state, *arguments)
    assert listing(cli.state) == before
    document: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    assert document["warnings"] == []
    return document


def listing(directory: Path) -> set[tuple[str, int]]:
    """All files with their sizes, but for what SQLite makes while it reads."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {(str(path), path.stat().st_size) for path in files}


def actions(document: dict[str, Any]) -> list[str]:
    return [f"{step['action']} {step['text'].split()[0]}" for step in document["steps"] if step["number"]]


def change_file(context: Path) -> list[str]:
    (context / "src" / "main.py").write_text("2\n")
    return []


def add_file(context: Path) -> list[str]:
    (context / "src" / "new.py").write_text("2\n")
    return []


def change_argument(context: Path) -> list[str]:
    return ["--build-arg", "VERSION=1.3"]


def change_command(context: Path) -> list[str]:
    text = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(text.replace("300000", "300001"))
    return []


def change_stage(context: Path) -> list[str]:
    text = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(text.replace("echo tool", "echo other"))
    return []


def change_nothing(context: Path) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("change", "headline"),
    [
        (change_nothing, "expected 4 of 4 steps reused"),
        (change_file, "expected 2 of 5 steps reused; first miss: COPY src /app because src/main.py changed"),
        (add_file, "expected 2 of 5 steps reused; first miss: COPY src /app because src/new.py is new"),
        (
            change_argument,
            "expected 3 of 5 steps reused; first miss: RUN echo $VERSION > /version because ARG VERSION 1.2 → 1.3",
        ),
        (
            change_command,
            "expected 1 of 5 steps reused; first miss: RUN head -c 300001 /dev/urandom > /large because the command "
            "changed",
        ),
        (
            change_stage,
            "expected 3 of 5 steps reused; first miss: RUN echo other > /tool because the command changed",
        ),
    ],
)
def test_a_plan_says_what_the_build_then_does(
    cli: Cli,
    registry: DockerRegistry,
    context: Path,
    change: Callable[[Path], list[str]],
    headline: str,
) -> None:
    tag = f"{registry.host}/plan/{change.__name__}:1"
    cli.build(context, tag=tag)
    arguments = change(context)
    document = plan(cli, context, "--tag", tag, "--push", *arguments)
    assert document["headline"] == headline
    built = cli.build(context, *arguments, tag=tag)
    executed = [step for step in built.timing["steps"] if step["state"] == "ran"]
    planned = [step for step in document["steps"] if step["number"] and step["action"] != "reuse"]
    assert [step["text"] for step in executed] == [step["text"] for step in planned]
    reasons = {step["text"]: step["reason"] for step in executed if step["reason"]}
    assert reasons == {step["text"]: step["reason"] for step in planned if step["cause"]}


def test_a_first_plan_builds_pulls_and_writes_nothing(
    cli: Cli, registry: DockerRegistry, context: Path, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/plan/first:1"
    document = plan(cli, context, "--tag", tag, "--push")
    assert not cli.state.exists()
    assert document["steps_reused"] == 0
    assert document["steps"][document["first_miss"]]["reason"] == "it was never built before"
    # the base image's layers, which a build would fetch: their sizes are known, their bytes were not asked for
    assert {fetch["purpose"] for fetch in document["fetches"]} == {"files"}
    assert all(fetch["bytes"] > 0 for fetch in document["fetches"])
    requests_ = traffic.requests()
    assert {method for method, _ in requests_} <= {"GET", "HEAD"}
    assert not [path for _, path in requests_ for fetch in document["fetches"] if fetch["digest"] in path]
    shown = cli("plan", context, "--tag", tag, "--push", "--state", cli.state).stdout
    assert "first miss: RUN echo tool > /tool because it was never built before" in shown
    assert "fetch: " in shown


def test_an_empty_runner_explains_itself_through_the_shared_cache(
    runner: Callable[[], Cli], registry: DockerRegistry, context: Path
) -> None:
    name = f"{registry.host}/plan/shared"
    for number in range(600):
        (context / "src" / f"module_{number}_of_many.py").write_text(f"{number}\n")
    runner().build(context, tag=f"{name}:1")
    (context / "src" / "module_7_of_many.py").write_text("changed\n")
    document = plan(runner(), context, "--tag", f"{name}:2", "--push")
    miss = document["steps"][document["first_miss"]]
    assert miss["reason"] == "src/module_7_of_many.py changed; 1 modified of 602 files"
    built = runner().build(context, tag=f"{name}:2")
    reasons = [step["reason"] for step in built.timing["steps"] if step["text"] == "COPY src /app"]
    assert reasons == ["src/module_7_of_many.py changed; 1 modified of 602 files"]


def test_a_base_image_that_moved_is_named(
    runner: Callable[[], Cli], registry: DockerRegistry, tmp_path: Path, base_image: str
) -> None:
    base, tag = f"{registry.host}/plan/moving:1", f"{registry.host}/plan/on-moving"
    directories = [tmp_path / name for name in ("base", "app")]
    for directory in directories:
        directory.mkdir()
    below, app = directories
    (app / "Dockerfile").write_text(f"FROM {base}\nRUN echo 1 > /one\n")
    digests = []
    for number in (1, 2):
        (below / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo {number} > /base\n")
        digests.append(runner().build(below, tag=base).digest)
        if number == 1:
            runner().build(app, tag=f"{tag}:1")
    document = plan(runner(), app, "--tag", f"{tag}:2", "--push")
    assert document["steps"][0]["reason"] == (f"base image moved: {digests[0][:19]}… → {digests[1][:19]}…; {base}")


# --- cache ----------------------------------------------------------------------------------------------------------


def cache(cli: Cli, *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cli("cache", *arguments, "--json", "--state", cli.state).stdout)
    return document


def test_the_tree_and_a_chain_of_a_built_image(
    cli: Cli, runner: Callable[[], Cli], registry: DockerRegistry, context: Path
) -> None:
    name = f"{registry.host}/cache/tree"
    assert cli("cache", "tree", "--state", cli.state).stdout.endswith("nothing is recorded yet\n")
    cli.build(context, tag=f"{name}:1")
    change_file(context)
    cli.build(context, tag=f"{name}:2")
    drawn = cli("cache", "tree", "--state", cli.state).stdout
    assert drawn.count("RUN head") == 1, "a shared beginning is there once"
    assert drawn.count("COPY src /app") == 2
    assert drawn.count(f"● {name}:") == 2
    # what a runner without any state sees in the registry is the same forest
    shared = cache(runner(), "tree", "--cache", f"registry://{name}")
    titles = sorted(node["title"] for scope in shared["scopes"] for node in scope["nodes"] if node["record"])
    local = cache(cli, "tree")
    mine = sorted(node["title"] for scope in local["scopes"] for node in scope["nodes"] if node["record"])
    assert titles == sorted([*(title for title in mine if not title.startswith("FROM")), *_roots(titles)])
    chain = cache(cli, "why", name)
    assert chain["image"]["name"] == f"{name}:2"
    copied = next(step for step in chain["steps"] if step["instruction"] == "COPY src /app")
    assert copied["files"] == ["src/main.py", "src/util.py"]
    assert copied["here"]
    assert copied["repositories"] == [name]
    assert "is at    " + name in cli("cache", "why", copied["key"][:20], "--state", cli.state).stdout


def _roots(titles: list[str]) -> list[str]:
    return [title for title in titles if title.startswith("FROM")]


def test_verify_drops_what_the_registry_has_lost(
    cli: Cli, runner: Callable[[], Cli], registry: DockerRegistry, context: Path
) -> None:
    name = f"{registry.host}/cache/verify"
    cli.build(context, tag=f"{name}:1")
    assert cache(cli, "verify")["dropped"] == []
    chain = cache(cli, "why", f"{name}:1")
    lost = next(step for step in chain["steps"] if step["instruction"].startswith("RUN head"))
    digest = lost["layer"]["digest"]
    repository = name.partition("/")[2]
    answer = requests.delete(f"http://{registry.host}/v2/{repository}/blobs/{digest}", timeout=10)
    assert answer.status_code == 202
    # this machine still has it: the record only loses the place
    corrected = cache(cli, "verify")
    assert corrected["dropped"] == []
    assert [one["key"] for one in corrected["corrected"]] == [lost["key"]]
    # the shared cache cannot give it to anybody
    dropped = cache(runner(), "verify", "--cache", f"registry://{name}")
    assert [one["key"] for one in dropped["dropped"]] == [lost["key"]]
    again = cache(runner(), "verify", "--cache", f"registry://{name}")
    assert (again["dropped"], again["records"]) == ([], dropped["records"] - 1)
    assert plan(runner(), context, "--tag", f"{name}:1", "--push")["steps_reused"] < 4


def test_verify_finds_damage_on_this_machine(cli: Cli, context: Path) -> None:
    cli("build", context, "--state", cli.state, "-q")
    document = cache(cli, "tree")
    records = [node["record"] for scope in document["scopes"] for node in scope["nodes"] if node["record"]]
    digest = next(record["layer"]["digest"] for record in records if record["instruction"] == "COPY src /app")
    blob = cli.state / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    verified = cache(cli, "verify")
    assert [one["instruction"] for one in verified["dropped"]] == ["COPY src /app"]
    assert not blob.exists()
    assert cli("build", context, "--state", cli.state, "-q").returncode == 0
    assert cache(cli, "verify")["dropped"] == []


def test_prune_forgets_and_frees(cli: Cli, context: Path) -> None:
    cli("build", context, "--state", cli.state, "-q")
    blobs = cli.state / "blobs" / "sha256"
    before = sum(path.stat().st_blocks * 512 for path in blobs.iterdir())
    assert cache(cli, "prune", "--older-than", "1d")["records"] == 0
    pruned = cache(cli, "prune", "--max-size", "1k")
    assert pruned["bytes"] > 300_000
    assert (pruned["blobs"], pruned["snapshots"], pruned["problems"]) == (4, 4, [])
    freed = before - sum(path.stat().st_blocks * 512 for path in blobs.iterdir())
    assert freed > pruned["bytes"]
    assert pruned["freed_bytes"] > freed + 300_000, "the file of the snapshot too"
    assert plan(cli, context)["steps_reused"] < 4
    assert "forgotten" in cli("cache", "prune", "--older-than", "0m", "--state", cli.state).stdout
    assert cache(cli, "tree")["scopes"] == []
    assert cli("build", context, "--state", cli.state, "-q").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["why", "no/such:1"], 2, "the cache knows no image and no step no/such:1"),
        (["tree", "--cache", "ftp://x"], 2, "not the URL of a cache"),
        (["tree", "--cache", "redis://127.0.0.1:1/0"], 61, "127.0.0.1:1"),
        (["verify", "--cache", "registry://127.0.0.1:1/x"], 61, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_one_paragraph(cli: Cli, arguments: list[str], code: int, message: str) -> None:
    done = cli("cache", *arguments, "--state", cli.state, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "\nnext: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_index_is_said_and_left_alone(cli: Cli, context: Path) -> None:
    cli.state.mkdir()
    (cli.state / "index.sqlite").write_bytes(b"not an index" * 100)
    done = cli("cache", "tree", "--state", cli.state, check=False)
    assert done.returncode == 61
    assert "A build replaces an index that is damaged." in done.stderr
    planned = cli("plan", context, "--state", cli.state)
    assert "the plan is made without it" in planned.stderr
    assert "first miss" in planned.stdout
    assert (cli.state / "index.sqlite").read_bytes() == b"not an index" * 100
