"""`cache prune` on a machine that builds: what goes, what stays, and that a running build loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Cli, run
from tests.servers import DockerRegistry

LAYERS = ("blobs", "snapshots", "tocs")
DAY = 86400


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


def write(context: Path, base: str, *lines: str) -> Path:
    (context / "Dockerfile").write_text("\n".join([f"FROM {base}", *lines]) + "\n")
    return context


def prune(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cli("cache", "prune", "--json", "--state", cli.state, *arguments).stdout)
    assert document["problems"] == []
    return document


def build(cli: Cli, context: Path, *arguments: str | Path) -> str:
    return cli("build", context, "--state", cli.state, "--progress", "plain", *arguments).stderr


def snapshots(cli: Cli) -> list[Path]:
    return sorted((cli.state / "snapshots" / "data").iterdir())


def blocks(directory: Path) -> int:
    """Bytes of the disk that a tree takes; a file with several names once."""
    seen: dict[int, int] = {}
    for folder, _, names in os.walk(directory):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            info = path.lstat()
            seen[info.st_ino] = info.st_blocks * 512
    return sum(seen.values())


@contextmanager
def running(cli: Cli, context: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A build whose RUN has begun: it makes the file `begun` in the cache mount /c."""
    command = cli.command("build", context, "--state", cli.state, "--progress", "plain", *arguments)
    with subprocess.Popen(
        command, env=cli.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(cli.state.glob("mounts/*/0/data/begun")):
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("limit", [("--older-than", "0m"), ("--max-size", "1")])
def test_a_running_build_keeps_what_it_stands_on(
    cli: Cli, context: Path, base_image: str, registry: DockerRegistry, tmp_path: Path, limit: tuple[str, str]
) -> None:
    before = "RUN mkdir /before && echo 1 > /before/file && head -c 200000 /dev/urandom > /before/large"
    build(cli, write(context, base_image, before, "RUN echo of no use to the other > /aside"))
    there = snapshots(cli)
    waits = (
        "RUN --mount=type=cache,target=/c touch /c/begun && while test ! -e /c/go; do sleep 0.1; done && "
        "ls /before/large /bin/busybox && cat /before/file > /after"
    )
    write(context, base_image, before, waits, "RUN cat /after /before/file && ls /bin/busybox")
    tag = f"{registry.host}/prune/running-{limit[0].strip('-')}:1"
    with running(cli, context, "--tag", tag, "--push") as process:
        pruned = prune(cli, *limit)
        assert pruned["records"] == 2
        assert pruned["snapshots"] == 1, "that of the step that the running build does not use"
        assert pruned["mounts"] == 0
        assert pruned["blobs"] == 1, "the blob of what it uses is still to be sent"
        left = [path for path in snapshots(cli) if path in there]
        assert len(left) == len(there) - 1
        assert all((path / "fs").is_dir() and os.listdir(path / "fs") for path in left)
        assert prune(cli, *limit)["snapshots"] == 0
        (mount,) = cli.state.glob("mounts/*/0/data")
        (mount / "go").touch()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{tag}", f"dir:{tmp_path / 'image'}")


def test_nothing_of_it_is_left_the_second_time(cli: Cli, context: Path, base_image: str) -> None:
    steps = [f"RUN --mount=type=cache,target=/c echo {number} > /{number}" for number in range(3)]
    build(cli, write(context, base_image, *steps))
    before = blocks(cli.state)
    made = len(snapshots(cli))
    first = prune(cli, "--older-than", "0m")
    assert (first["records"], first["snapshots"], first["mounts"]) == (3, made, 1)
    assert snapshots(cli) == []
    assert os.listdir(cli.state / "snapshots" / "by-chain") == os.listdir(cli.state / "toc") == []
    assert list(cli.state.glob("mounts/*")) == []
    # the index itself keeps its pages, and new ones may be in its log
    index = sum(path.stat().st_blocks * 512 for path in cli.state.glob("*.sqlite*") if path.is_file())
    assert before - index - blocks(cli.state) <= first["freed_bytes"] <= before - blocks(cli.state) + index
    again = prune(cli, "--older-than", "0m")
    assert {name: again[name] for name in ("records", "freed_bytes", "mounts", *LAYERS)} == dict.fromkeys(
        ("records", "freed_bytes", "mounts", *LAYERS), 0
    )
    assert "ran" not in build(cli, context)  # it begins anew, and ends well


def test_layers_of_any_kind_go_and_nothing_beside_them(
    cli: Cli, context: Path, base_image: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    deep = "d=; i=0; while test $i -lt 60; do mkdir d && cd d; i=$((i+1)); done"
    steps = (
        "RUN mkdir -p /closed/in && echo x > /closed/in/file && chmod 000 /closed/in /closed",
        "RUN rm /bin/wget /bin/vi && mkdir /bin/vi && mkfifo /pipe && ln -s / /root/all",
        f"RUN mkdir /deep && cd /deep && {deep} && echo x > file && ln file /again",
        f"RUN ln -s {outside} /link && ln -s {outside}/precious /file && printf x > \"$(printf '/a\\nb\\377')\"",
    )
    build(cli, write(context, base_image, *steps))
    fixed = next(path for path in snapshots(cli) if (path / "fs/again").exists()) / "fs"
    marked = subprocess.run(["chattr", "+i", str(fixed / "again"), str(fixed / "deep")], check=False)
    assert any((path / "fs/bin/wget").is_char_device() for path in snapshots(cli)), "a whiteout"
    assert marked.returncode == 0, "the file system of the test has no such marks"
    pruned = prune(cli, "--older-than", "0m")
    assert snapshots(cli) == []
    assert pruned["snapshots"] > len(steps)
    assert (outside / "precious").read_text() == "x"


def test_somebody_who_is_not_root_removes_what_nobody_may_read(tmp_path: Path) -> None:
    state = tmp_path / "state"
    closed = state / "snapshots/data/left/fs/closed/in"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    for path in (closed, closed.parent):
        path.chmod(0)
    for folder, names, files in os.walk(tmp_path):
        for name in (".", *names, *files):
            os.chown(Path(folder, name), 65534, 65534)
    script = (
        "import os, sys; from pathlib import Path; from ci_plugins.cache.layers import LayerCache\n"
        "os.setgid(65534); os.setuid(65534); LayerCache(Path(sys.argv[1]))"
    )
    for path in list(tmp_path.parents)[:-2]:
        path.chmod(path.stat().st_mode | 0o755)
    subprocess.run([sys.executable, "-c", script, str(state)], check=True)
    assert os.listdir(state / "snapshots/data") == []


def test_a_base_image_goes_when_it_was_not_used_for_long(cli: Cli, context: Path, base_image: str) -> None:
    build(cli, write(context, base_image, "RUN echo x > /x"))
    of_steps = {path for path in snapshots(cli) if (path / "fs/x").exists()}
    base = set(snapshots(cli)) - of_steps
    assert base
    assert prune(cli, "--older-than", "14d")["snapshots"] == 0
    age(cli, 13 * DAY)
    build(cli, write(context, base_image, "RUN echo x > /x", "RUN echo y > /y"))
    age(cli, 2 * DAY, *base)
    assert prune(cli, "--older-than", "14d")["snapshots"] == 0, "a build has used them since"
    age(cli, 13 * DAY, *base)
    assert prune(cli, "--older-than", "14d")["snapshots"] == len(base)
    assert of_steps <= set(snapshots(cli)), "its record is there"
    build(cli, write(context, base_image, "RUN echo x > /x", "RUN echo z > /z && ls /bin/busybox"))


def age(cli: Cli, seconds: float, *directories: Path) -> None:
    """As if snapshots had been used so much earlier."""
    for path in directories or snapshots(cli):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_what_killed_builds_left_goes(cli: Cli, context: Path, base_image: str) -> None:
    write(
        context, base_image,
        "RUN --mount=type=cache,target=/c head -c 3000000 /dev/urandom > /half && touch /c/begun && sleep 60",
    )  # fmt: skip
    with running(cli, context) as process:
        process.kill()
        process.wait()
    spool = cli.state / "spool" / "left"
    spool.write_bytes(bytes(range(256)) * 4000)
    os.utime(spool, (1, 1))
    (cli.state / "toc" / "0123.abcd").write_bytes(b"half")
    os.utime(cli.state / "toc" / "0123.abcd", (1, 1))
    half = [path for path in snapshots(cli) if (path / "fs/half").exists()]
    assert half
    freed = prune(cli, "--older-than", "1d")
    assert freed["freed_bytes"] > 4_000_000
    assert not half[0].exists()
    assert not spool.exists()
    assert not (cli.state / "toc" / "0123.abcd").exists()
    assert not list((cli.state / "scratch").glob("*"))


def test_cache_mounts_past_their_time_go_and_those_in_use_stay(cli: Cli, context: Path, base_image: str) -> None:
    mounts = ("old", "new", "used")
    fill = [f"RUN --mount=type=cache,target=/c,id={name} head -c 100000 /bin/busybox > /c/file" for name in mounts]
    build(cli, write(context, base_image, *fill))
    where = {json.loads(path.read_text())["id"]: path.parent for path in cli.state.glob("mounts/*/about.json")}
    write(context, base_image, "RUN --mount=type=cache,target=/c,id=used touch /c/begun && sleep 60")
    with running(cli, context):
        for name in ("old", "used"):
            os.utime(where[name] / "0/lock", (1, 1))
        pruned = prune(cli, "--older-than", "7d")
    assert pruned["mounts"] == 1
    assert pruned["freed_bytes"] >= 100_000
    assert sorted(path.name for path in (cli.state / "mounts").iterdir()) == sorted(
        where[name].name for name in ("new", "used")
    )
    assert (where["used"] / "0/data/file").exists()
    build(cli, write(context, base_image, "RUN --mount=type=cache,target=/c,id=old test ! -e /c/file"))


@pytest.mark.parametrize("kind", ["sqlite", "registry"])
def test_saved_mounts_go_where_the_cache_is(
    cli: Cli, context: Path, base_image: str, registry: DockerRegistry, tmp_path: Path, kind: str
) -> None:
    place = {"sqlite": f"sqlite:{tmp_path / 'shared'}", "registry": f"registry://{registry.host}/prune/saved"}[kind]
    shared = ("--cache-mounts", "shared", "--cache", place)
    fill = "RUN --mount=type=cache,target=/c head -c 100000 /dev/urandom > /c/file"
    build(cli, write(context, base_image, fill), *shared)
    local = len(list(cli.state.glob("mounts/*")))
    assert prune(cli, "--older-than", "1d", "--cache", place)["mounts"] == 0
    for path in (tmp_path / "shared.mounts").rglob("*"):
        os.utime(path, (1, 1))
    age_argument = {"sqlite": "1d", "registry": "0m"}[kind]
    time.sleep({"sqlite": 0, "registry": 1.1}[kind])  # the times of a registry are in whole seconds
    pruned = prune(cli, "--older-than", age_argument, "--cache", place)
    assert pruned["mounts"] == 1
    if kind == "sqlite":
        assert pruned["freed_bytes"] > 100_000
        assert not list((tmp_path / "shared.mounts/packs").glob("*/*"))
    else:
        assert not [name for name in registry.tags("prune/saved") if name.startswith("ci-plugins-mount-")]
    assert len(list(cli.state.glob("mounts/*"))) == local, "those of this machine are another matter"
    assert "freed" in cli("cache", "prune", "--older-than", "0m", "--state", cli.state).stdout
