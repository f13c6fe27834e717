"""Builds side by side on one state, and shapes of builds in which something could wait for ever.

Every build has a time limit; one that reaches it fails the test with what each of its threads was doing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.build_faults import LocalCli, Running, SlowLine, left_behind, unnamed_snapshots
from tests.harness import Cli, run
from tests.servers import DockerRegistry

LIMIT = 90.0


@pytest.fixture
def cli(cli: Cli) -> Cli:
    return LocalCli(cli.home, cli.state)


def context_of(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name in ("a", "b"):
        if not (folder / name).exists():
            (folder / name).write_bytes(name.encode() + os.urandom(300_000))
    return folder


def file_of(reference: str, path: str, folder: Path) -> str:
    """A file of an image in a registry, as umoci unpacks it."""
    folder.mkdir()
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{folder / 'layout'}:image")
    run("umoci", "unpack", "--image", f"{folder / 'layout'}:image", str(folder / "bundle"))
    return (folder / "bundle/rootfs" / path).read_text()


def start(cli: Cli, context: Path, tag: str, *arguments: str) -> Running:
    return Running.start(cli, context, "--tag", tag, "--push", *arguments)


@pytest.mark.parametrize("count", [2, 4])
def test_the_same_build_at_the_same_time(
    cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path, count: int
) -> None:
    context = context_of(
        tmp_path / "context",
        f"FROM {base_image}\nCOPY a /a\nRUN echo made > /made; sleep 0.3\nCOPY b /b\nRUN wc -c /b > /n\n",
    )
    tags = [f"{registry.host}/same-{count}/app:{n}" for n in range(count)]
    builds = [start(cli, context, tag) for tag in tags]
    for build in builds:
        build.succeed(LIMIT)
    for number, tag in enumerate(tags):
        assert file_of(tag, "made", tmp_path / f"image-{number}") == "made\n"
    again = cli.build(context, tag=tags[0])
    assert {step["state"] for step in again.timing["steps"]} == {"cached"}
    assert again.timing["warnings"] == []
    assert unnamed_snapshots(cli.state) == []


def test_different_builds_of_one_base_while_one_is_killed(
    cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path
) -> None:
    """All start on an empty state: each wants the base's layers, one dies while it fetches or runs."""
    contexts = [
        context_of(tmp_path / f"context-{n}", f"FROM {base_image}\nRUN echo {n} > /number\nCOPY a /a\nRUN sleep 0.2\n")
        for n in range(4)
    ]
    for delay in (0.3, 0.6, 1.0, 1.5):
        state = LocalCli(cli.home, tmp_path / f"state-{delay}")
        victim = start(state, contexts[3], f"{registry.host}/different/app:victim")
        builds = [start(state, contexts[n], f"{registry.host}/different/app:{n}") for n in range(3)]
        time.sleep(delay)
        victim.process.kill()
        for build in builds:
            build.succeed(LIMIT)
        state.build(contexts[3], tag=f"{registry.host}/different/app:3")
        assert left_behind(state.state) == []
    for n in range(4):
        assert file_of(f"{registry.host}/different/app:{n}", "number", tmp_path / f"image-{n}") == f"{n}\n"


def test_an_index_that_many_open_for_the_first_time(cli: Cli, tmp_path: Path) -> None:
    context = context_of(tmp_path / "context", "FROM scratch\nCOPY a /\n")
    builds = [Running.start(cli, context) for _ in range(6)]
    for build in builds:
        build.succeed(LIMIT)
        assert "cannot be used" not in build.output


def many_stages(base: str) -> str:
    """Twenty stages: a chain of COPY --from, every third one also a diamond over the two before."""
    lines = [f"FROM {base} AS s0", "RUN mkdir /data && echo 0 > /data/0"]
    for n in range(1, 20):
        lines += [f"FROM {base} AS s{n}" if n % 4 else f"FROM s{n - 1} AS s{n}"]
        lines += [f"COPY --from=s{n - 1} /data /data"]
        if n > 1 and n % 3 == 0:
            lines += [f"COPY --from=s{n - 2} /data /diamond"]
        if n % 5 == 0:
            lines += [f"RUN echo {n} > /data/{n}"]
        else:
            lines += [f"COPY a /data/{n}"]
    return "\n".join([*lines, "FROM s19", "RUN ls /data | wc -l > /count", ""])


@pytest.mark.parametrize("budget", ["256MiB", "8MiB"])
def test_many_stages(cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path, budget: str) -> None:
    context = context_of(tmp_path / "context", many_stages(base_image))
    tag = f"{registry.host}/stages/app:{budget.lower()}"
    start(cli, context, tag, "--memory-budget", budget).succeed(LIMIT)
    assert file_of(tag, "count", tmp_path / "image").strip() == "20"
    (context / "a").write_text("changed")
    start(cli, context, tag, "--memory-budget", budget).succeed(LIMIT)


def test_sixty_copies_and_a_run(cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path) -> None:
    copies = "".join(f"COPY {'a' if n % 2 else 'b'} /d/{n}\n" for n in range(60))
    context = context_of(tmp_path / "context", f"FROM {base_image}\n{copies}RUN ls /d | wc -l > /count\n")
    tag = f"{registry.host}/copies/app:1"
    start(cli, context, tag, "--memory-budget", "8MiB").succeed(LIMIT)
    assert file_of(tag, "count", tmp_path / "image").strip() == "60"


@pytest.mark.parametrize("twice", [False, True], ids=["different", "repeated"])
def test_a_base_of_forty_layers(
    cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path, twice: bool
) -> None:
    """Also one that repeats its layers: a layer that needs its parents' directories may be one of its own parents."""
    layers = "".join(
        f"COPY a /deep/down/{0 if twice else n}\n" if n % 2 else f"RUN mkdir -p /tmp/x && touch /tmp/x/{n}\n"
        for n in range(40)
    )
    base = context_of(tmp_path / "base", f"FROM {base_image}\nRUN mkdir -m 750 -p /deep/down\n{layers}")
    cli.build(base, tag=f"{registry.host}/forty-{int(twice)}/base:1")
    empty = LocalCli(cli.home, tmp_path / "empty")
    context = context_of(
        tmp_path / "context", f"FROM {registry.host}/forty-{int(twice)}/base:1\nRUN stat -c %a /deep/down > /mode\n"
    )
    tag = f"{registry.host}/forty-{int(twice)}/app:1"
    start(empty, context, tag).succeed(LIMIT)
    assert file_of(tag, "mode", tmp_path / "image") == "750\n"


def test_a_base_that_repeats_a_blob(cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path) -> None:
    """One blob eight times in one image, with a directory it only implies: whoever extracts it waits for the others."""
    context = context_of(tmp_path / "base", f"FROM {base_image}\nRUN mkdir -m 750 /deep\nCOPY a /deep/a\n")
    layout = tmp_path / "layout"
    cli.build(context, "--output", f"oci:{layout}", tag="base:1", push=False)
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    manifest["layers"] += manifest["layers"][-1:] * 7
    config["rootfs"]["diff_ids"] += config["rootfs"]["diff_ids"][-1:] * 7
    config["history"] += config["history"][-1:] * 7

    def store(value: object) -> dict[str, object]:
        data = json.dumps(value).encode()
        digest = run("sh", "-c", "sha256sum < " + str(_written(tmp_path / "value", data))).split()[0]
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest["config"].update(store(config))
    index["manifests"][0].update(store(manifest))
    (layout / "index.json").write_text(json.dumps(index))
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{registry.host}/repeated/base:1")
    app = context_of(
        tmp_path / "app", f"FROM {registry.host}/repeated/base:1\nRUN stat -c %a /deep > /mode && wc -c /deep/a\n"
    )
    for number in range(5):
        empty = LocalCli(cli.home, tmp_path / f"empty-{number}")
        start(empty, app, f"{registry.host}/repeated/app:{number}").succeed(20)
    assert file_of(f"{registry.host}/repeated/app:4", "mode", tmp_path / "image") == "750\n"


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_uploads_slower_than_the_build(cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path) -> None:
    """More layers are written than are under way to the registry, with memory for four chunks."""
    copies = "".join(f"COPY big-{n} /\n" for n in range(14))
    context = context_of(tmp_path / "context", f"FROM {base_image}\n{copies}RUN ls /big-* | wc -l > /count\n")
    for n in range(14):
        (context / f"big-{n}").write_bytes(os.urandom(1_000_000))
    with SlowLine.start(registry.port) as line:
        line.up = 4_000_000
        build = start(
            cli, context, f"{line.host}/slow/app:1", "--memory-budget", "8MiB", "--output", f"oci:{tmp_path / 'l'}"
        )
        build.succeed(LIMIT)
    assert file_of(f"{registry.host}/slow/app:1", "count", tmp_path / "image").strip() == "14"
