"""`RUN --mount=type=cache` as people use it: real RUN steps, builds one after another and at once, empty runners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci_plugins.events import Recorder
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.registry_store import RegistryChunks
from ci_plugins.mounts.spec import MountRequest, MountSpec
from ci_plugins.serve import create_server
from ci_plugins.storage.registry import RegistryClient
from tests.harness import Built, Cli, run
from tests.servers import DockerRegistry

Write = Callable[..., Path]


@pytest.fixture
def dockerfile(tmp_path: Path, base_image: str) -> Write:
    """Write a Dockerfile on busybox into a context of its own."""

    def write(*lines: str, head: str = f"FROM {base_image}") -> Path:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text("\n".join([head, *lines]) + "\n")
        return context

    return write


@pytest.fixture
def tag(registry: DockerRegistry, request: pytest.FixtureRequest) -> str:
    return f"{registry.host}/mounts/{request.node.name.replace('[', '-').strip(']').lower()}:1"


def output(cli: Cli, *arguments: str | Path, check: bool = True) -> str:
    """What the build's RUN steps wrote, and all else it said."""
    done = cli("build", *arguments, "--state", cli.state, "--progress", "plain", check=check)
    return done.stdout + done.stderr


def another(cli: Cli, name: str) -> Cli:
    """The same person on an empty runner."""
    return Cli(cli.home, cli.state.with_name(name))


def paths_of(tag: str, folder: Path) -> set[str]:
    """Every path of every layer of an image."""
    run("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{tag}", f"dir:{folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    names: set[str] = set()
    for layer in manifest["layers"]:
        listing = run("tar", "-tzf", str(folder / layer["digest"].removeprefix("sha256:")))
        names |= {line.removeprefix("./").rstrip("/") for line in listing.splitlines()}
    return names


# -- on one machine ----------------------------------------------------------------------------------------------------


def test_content_stays_between_steps_and_builds_and_never_reaches_a_layer(
    cli: Cli, dockerfile: Write, tag: str, tmp_path: Path
) -> None:
    mount = "--mount=type=cache,target=/root/.cache/pip"
    context = dockerfile(
        f"RUN {mount} echo one > /root/.cache/pip/file && echo kept > /tmp/kept",
        f"RUN {mount} cat /root/.cache/pip/file > /tmp/seen && test ! -e /root/.cache/pip/.wh.file",
        "RUN test ! -e /root/.cache && cat /tmp/seen",
    )
    cli.build(context, tag=tag)
    names = paths_of(tag, tmp_path / "image")
    assert {"tmp/kept", "tmp/seen"} <= names
    assert not [name for name in names if ".cache" in name]
    again = dockerfile(f"RUN {mount} cat /root/.cache/pip/file && echo second build")
    assert "one" in output(cli, again, "--output", f"oci:{tmp_path / 'layout'}")


def test_a_step_is_reused_whatever_the_mount_holds(cli: Cli, dockerfile: Write, tag: str) -> None:
    context = dockerfile("RUN --mount=type=cache,target=/c echo x >> /c/log", "RUN wc -l < /bin/busybox")
    cli.build(context, tag=tag)
    (data,) = cli.state.glob("mounts/*/0/data")
    (data / "more").write_text("changed from outside")
    again = cli.build(context, tag=tag)
    assert {step["state"] for step in again.timing["steps"]} == {"cached"}
    assert (data / "log").read_text() == "x\n"
    changed = dockerfile("RUN --mount=type=cache,target=/c,id=other echo x >> /c/log")
    assert [step["state"] for step in cli.build(changed, tag=tag).timing["steps"]] == ["ran"]


def test_what_the_image_has_there_is_hidden_and_untouched(
    cli: Cli, dockerfile: Write, tag: str, tmp_path: Path
) -> None:
    context = dockerfile(
        "RUN mkdir -p /var/cache/apt && echo image > /var/cache/apt/own && chmod 700 /var/cache/apt",
        'RUN --mount=type=cache,target=/var/cache/apt test -z "$(ls /var/cache/apt)" && echo mine > /var/cache/apt/own',
        "RUN cat /var/cache/apt/own > /result && stat -c %a /var/cache/apt >> /result && cat /result",
    )
    cli.build(context, tag=tag)
    assert "image" in output(cli, context, "--no-cache", "--output", f"oci:{tmp_path / 'l'}", check=False)


def test_relative_targets_several_mounts_and_links_in_the_image(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    context = dockerfile(
        "RUN mkdir -p /real && ln -s /real /link",
        "WORKDIR /work",
        "RUN --mount=type=cache,target=deps --mount=type=cache,target=/link/x "
        "--mount=type=cache,target=/work/deps/inner touch deps/a /real/x/b deps/inner/c && "
        "grep -c 'work/deps\\|real/x' /proc/mounts",
        "RUN --mount=type=cache,id=deps,target=/d ls /d && test -e /d/a && test ! -e /d/inner/c",
        "RUN test ! -e /work/deps && test ! -e /real/x",
    )
    assert " 3\n" in output(cli, context, "--output", f"oci:{tmp_path / 'layout'}")


def test_readonly_mode_and_owner(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    context = dockerfile(
        "RUN --mount=type=cache,target=/c stat -c 'plain %a %u %g' /c && touch /c/there",
        "RUN --mount=type=cache,target=/c,ro test -e /c/there && ! touch /c/x 2>/dev/null && echo cannot write",
        "RUN --mount=type=cache,target=/d,mode=0700,uid=65534,gid=65534 stat -c 'own %a %u %g' /d",
        "USER 65534",
        "RUN --mount=type=cache,target=/d,mode=0700,uid=65534,gid=65534 touch /d/mine && echo user can write",
    )
    said = output(cli, context, "--output", f"oci:{tmp_path / 'layout'}")
    for line in ("plain 755 0 0", "cannot write", "own 700 65534 65534", "user can write"):
        assert line in said


def test_a_new_mount_is_filled_from_a_stage_or_an_image(
    cli: Cli, dockerfile: Write, base_image: str, tmp_path: Path
) -> None:
    context = dockerfile(
        "RUN mkdir -p /seed/deep && echo first > /seed/deep/file && ln /seed/deep/file /seed/again && "
        "chown 7:8 /seed && chmod 751 /seed",
        f"FROM {base_image}",
        "RUN --mount=type=cache,target=/c,from=maker,source=/seed "
        "cat /c/deep/file && stat -c 'seeded %a %u %g %h' /c /c/again && echo changed > /c/deep/file",
        "RUN --mount=type=cache,target=/c,from=maker,source=/seed cat /c/deep/file",
        f"RUN --mount=type=cache,target=/i,from={base_image},source=/etc cat /i/passwd | wc -l",
        head=f"FROM {base_image} AS maker",
    )
    said = output(cli, context, "--output", f"oci:{tmp_path / 'layout'}")
    for line in ("first", "seeded 751 7 8", "seeded 644 0 0 2", "changed"):
        assert line in said


@pytest.mark.parametrize(
    ("mount", "code", "words"),
    [
        ("type=cache", 12, ("Dockerfile:2:1", "no target")),
        ("type=cache,target=/", 12, ("root directory",)),
        ("type=cache,target=/c,source=/x", 15, ("without from=",)),
        ("type=cache,target=/c,from=base,source=/nowhere", 21, ("Dockerfile:2:1", "/nowhere", "does not exist")),
        ("type=cache,target=/c,mode=9", 12, ("mode",)),
        ("type=tmpfs,target=/c", 15, ("--mount=type=tmpfs",)),
    ],
)
def test_refusals_say_where_and_why(
    cli: Cli, dockerfile: Write, base_image: str, mount: str, code: int, words: Sequence[str], tmp_path: Path
) -> None:
    mount = mount.replace("from=base", f"from={base_image}")
    context = dockerfile(f"RUN --mount={mount} true")
    done = cli("build", context, "--state", cli.state, "--output", f"oci:{tmp_path / 'l'}", check=False)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def parallel_stages(base: str, mount: str) -> list[str]:
    """Two stages that use a mount at the same time, and say when they were in it."""
    body = "n=$(ls /c | wc -l); touch /c/$1; echo enter $1 $n; sleep 1; echo leave $1"
    lines = []
    for name in ("a", "b"):
        lines += [
            f"FROM {base} AS {name}",
            f"RUN --mount=type=cache,target=/c{mount} set {name}; {body}; touch /{name}",
        ]
    return [*lines, f"FROM {base}", "COPY --from=a /a /", "COPY --from=b /b /"]


@pytest.mark.parametrize(
    ("mount", "together", "slots"), [("", True, 1), (",sharing=locked", False, 1), (",sharing=private", True, 2)]
)
def test_sharing_modes(
    cli: Cli, dockerfile: Write, base_image: str, tmp_path: Path, mount: str, together: bool, slots: int
) -> None:
    context = dockerfile(*parallel_stages(base_image, mount), head="")
    said = output(cli, context, "--output", f"oci:{tmp_path / 'layout'}")
    order = [
        line.split()[2] for line in said.splitlines() if len(line.split()) > 2 and line.split()[2] in ("enter", "leave")
    ]
    assert order == (["enter", "enter", "leave", "leave"] if together else ["enter", "leave", "enter", "leave"])
    assert len(list(cli.state.glob("mounts/*/*/data"))) == slots
    contents = sorted(len(list(data.iterdir())) for data in cli.state.glob("mounts/*/*/data"))
    assert contents == ([2] if slots == 1 else [1, 1])


def test_two_builds_of_one_state_wait_for_a_locked_mount(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    context = dockerfile("RUN --mount=type=cache,target=/c,sharing=locked mkdir /c/busy && sleep 1 && rm -r /c/busy")
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda n: output(cli, context, "--no-cache", "--output", f"oci:{tmp_path / n}"), ("x", "y"))
        assert all("exited with code" not in said for said in done)


def test_a_killed_build_leaves_no_lock(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    waits = dockerfile("RUN --mount=type=cache,target=/c,sharing=locked touch /c/begun && sleep 60")
    command = cli.command("build", waits, "--state", cli.state, "--output", f"oci:{tmp_path / 'l'}")
    process = subprocess.Popen(command, env=cli.environment(), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(cli.state.glob("mounts/*/0/data/begun")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    context = dockerfile("RUN --mount=type=cache,target=/c,sharing=locked test -e /c/begun && echo got it")
    began = time.monotonic()
    assert "got it" in output(cli, context, "--output", f"oci:{tmp_path / 'l'}")
    assert time.monotonic() - began < 20


def test_off_forgets(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    mount = "--mount=type=cache,target=/c"
    context = dockerfile(f"RUN {mount} touch /c/x", f"RUN {mount} test ! -e /c/x && echo nothing there")
    said = output(cli, context, "--cache-mounts", "off", "--output", f"oci:{tmp_path / 'layout'}")
    assert "nothing there" in said
    assert not list(cli.state.glob("mounts/*/*/data"))


# -- to the next runner ------------------------------------------------------------------------------------------------

FILL = (
    "RUN --mount=type=cache,target=/c mkdir -p /c/deep && echo travelled > /c/deep/file && ln /c/deep/file /c/hard && "
    "ln -s deep/file /c/soft && dd if=/dev/urandom of=/c/large bs=1M count=9 2>/dev/null && touch /c/empty && "
    "chown 5:6 /c/deep && chmod 2750 /c/deep && chmod 1777 /c && md5sum /c/large"
)
READ = (
    "RUN --mount=type=cache,target=/c cat /c/soft && md5sum /c/large && test -f /c/empty && "
    "stat -c 'deep %a %u %g' /c/deep && stat -c 'links %h' /c/hard && stat -c 'top %a' /c"
)


def test_it_travels_through_the_registry_that_is_pushed_to(
    cli: Cli, dockerfile: Write, tag: str, registry: DockerRegistry
) -> None:
    built = cli.build(dockerfile(FILL), "--cache-mounts", "shared", tag=tag)
    assert built.timing["push_tail_seconds"] < 1.5
    second = another(cli, "second")
    said = output(second, dockerfile(READ), "--cache-mounts", "shared", "--push", "--tag", tag)
    for line in ("travelled", "deep 2750 5 6", "links 2", "top 1777"):
        assert line in said
    first_sum = (next(cli.state.glob("mounts/*/0/data/large"))).read_bytes()
    assert (next(second.state.glob("mounts/*/0/data/large"))).read_bytes() == first_sum
    repository = tag.partition("/")[2].rpartition(":")[0]
    assert any(name.startswith("ci-plugins-mount-") for name in registry.tags(repository))


def test_a_small_change_sends_little_and_no_change_nothing(cli: Cli, dockerfile: Write, tag: str) -> None:
    cli.build(dockerfile(FILL), "--cache-mounts", "shared", tag=tag)
    second = another(cli, "second")
    more = dockerfile("RUN --mount=type=cache,target=/c echo more > /c/more")
    sent = mount_bytes(second.build(more, "--cache-mounts", "shared", tag=tag))
    assert sent["save"]["moved_bytes"] < 1000
    assert sent["restore"]["bytes"] > 9 << 20
    read = mount_bytes(another(cli, "third").build(dockerfile(READ), "--cache-mounts", "shared", tag=tag))
    assert read["save"]["result"] == "unchanged"


def mount_bytes(built: Built) -> dict[str, dict[str, Any]]:
    return {each["action"]: each for each in built.timing["mounts"]}


def test_scopes_read_others_and_write_their_own(cli: Cli, dockerfile: Write, tag: str) -> None:
    shared = ("--cache-mounts", "shared")
    fill = dockerfile("RUN --mount=type=cache,target=/c echo main > /c/who")
    cli.build(fill, *shared, "--cache-scope", "main", tag=tag)
    add = dockerfile("RUN --mount=type=cache,target=/c cat /c/who && echo fork >> /c/who")
    another(cli, "fork").build(add, *shared, "--cache-scope", "fork", "--cache-read", "main", tag=tag)
    look = dockerfile("RUN --mount=type=cache,target=/c wc -l < /c/who")
    arguments = (look, *shared, "--push", "--tag", tag, "--no-cache")
    assert " 1\n" in output(another(cli, "main"), *arguments, "--cache-scope", "main", "--cache-read", "other")
    assert " 2\n" in output(another(cli, "again"), *arguments, "--cache-scope", "fork", "--cache-read", "main")


def test_a_damaged_pack_costs_its_files_and_no_build(
    cli: Cli, dockerfile: Write, tag: str, registry: DockerRegistry
) -> None:
    cli.build(dockerfile("RUN --mount=type=cache,target=/c echo x > /c/x"), "--cache-mounts", "shared", tag=tag)
    repository = tag.partition("/")[2].rpartition(":")[0]
    (name,) = (name for name in registry.tags(repository) if name.startswith("ci-plugins-mount-"))
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/{repository}:{name}")
    (pack,) = json.loads(raw)["layers"]
    registry.blob_path(pack["digest"]).write_bytes(b"x" * pack["size"])
    context = dockerfile("RUN --mount=type=cache,target=/c ls -a /c | wc -l; echo y > /c/y")
    said = output(another(cli, "second"), context, "--cache-mounts", "shared", "--push", "--tag", tag)
    assert " 2\n" in said
    assert "lacks 1 of its files" in said
    third = output(another(cli, "third"), dockerfile("RUN --mount=type=cache,target=/c cat /c/y"), "--cache-mounts",
                   "shared", "--push", "--tag", tag)  # fmt: skip
    assert "lacks" not in third


def test_a_store_that_cannot_be_reached_is_a_warning(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    context = dockerfile("RUN --mount=type=cache,target=/c echo ran > /c/x && cat /c/x")
    said = output(
        cli, context, "--cache-mounts", "shared", "--cache", "registry://127.0.0.1:9/nobody",
        "--output", f"oci:{tmp_path / 'layout'}",
    )  # fmt: skip
    assert "begins empty" in said
    assert (next(cli.state.glob("mounts/*/0/data/x"))).read_text() == "ran\n"
    said = output(cli, context, "--cache-mounts", "shared", "--no-cache", "--output", f"oci:{tmp_path / 'layout'}")
    assert "neither --cache nor --push" in said


def test_through_a_directory_and_a_full_disk(cli: Cli, dockerfile: Write, tmp_path: Path) -> None:
    """The store is a file system of 8 MB: the first save fits, the second does not, and the first one stays."""
    share = tmp_path / "share"
    share.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(share))
    try:
        place = (
            "--cache-mounts",
            "shared",
            "--cache",
            f"sqlite:{share / 'index'}",
            "--output",
            f"oci:{tmp_path / 'l'}",
        )
        output(cli, dockerfile("RUN --mount=type=cache,target=/c echo small > /c/x"), *place)
        large = dockerfile("RUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/large bs=1M count=12 2>/dev/null")
        assert "is not saved" in output(cli, large, *place)
        read = dockerfile("RUN --mount=type=cache,target=/c cat /c/x && test ! -e /c/large && echo only that")
        assert "only that" in output(another(cli, "second"), read, *place)
    finally:
        run("umount", str(share))


def test_a_save_that_is_killed_leaves_what_was_there(
    cli: Cli, dockerfile: Write, tag: str, registry: DockerRegistry
) -> None:
    shared = ("--cache-mounts", "shared", "--push", "--tag", tag)
    output(cli, dockerfile("RUN --mount=type=cache,target=/c echo before > /c/x"), *shared)
    grow = dockerfile("RUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/large bs=1M count=300 2>/dev/null")
    command = cli.command("build", grow, "--state", cli.state, *shared)
    process = subprocess.Popen(command, env=cli.environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    uploads = registry.root / "docker/registry/v2/repositories" / tag.partition("/")[2].rpartition(":")[0] / "_uploads"
    packs = registry.root / "docker/registry/v2/blobs/sha256"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if uploads.exists() and any(file.stat().st_size > 10 << 20 for file in packs.glob("*/*/data")):
            break
        time.sleep(0.02)
    assert process.poll() is None, "it was to be killed while it saved"
    process.kill()
    process.wait()
    read = dockerfile("RUN --mount=type=cache,target=/c cat /c/x && test ! -e /c/large && echo as it was")
    assert "as it was" in output(another(cli, "second"), read, *shared)


def test_two_runners_save_at_once(cli: Cli, dockerfile: Write, tag: str) -> None:
    """The next runner finds what either has, and of what both have one whole file."""
    shared = ("--cache-mounts", "shared", "--push", "--tag", tag)
    context = dockerfile(
        "RUN --mount=type=cache,target=/c for n in $(seq 50); do echo $n > /c/$n; done; "
        "touch /c/own$(cat /proc/sys/kernel/random/uuid)"
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: output(another(cli, name), context, *shared, "--no-cache"), ("one", "two")))
    count = dockerfile("RUN --mount=type=cache,target=/c ls /c | wc -l")
    assert " 52\n" in output(another(cli, "three"), count, *shared)


@contextmanager
def served(registry: DockerRegistry, kind: str, folder: Path) -> Iterator[str]:
    """The address of a registry of a kind."""
    if kind == "docker-registry":
        yield registry.host
        return
    server = create_server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.address
    finally:
        server.shutdown()


@pytest.mark.parametrize("kind", ["docker-registry", "serve"])
def test_savers_that_meet_lose_nothing(registry: DockerRegistry, tmp_path: Path, kind: str) -> None:
    """Three runners, five times each, as quick as they can. A registry knows no locks: what one of them has added may
    go with an unlucky write of another's, until it saves again. Nothing else is ever lost."""
    recorder, never = Recorder(), threading.Event()
    request = MountRequest(MountSpec("/c", "/c"))
    with served(registry, kind, tmp_path / "registry") as host, ExitStack() as stack:
        parent = recorder.begin("build", "test")

        def manager(name: str) -> MountManager:
            client = RegistryClient(host)
            stack.callback(client.close)
            store = RegistryChunks(client, "mounts/meeting")
            return MountManager(tmp_path / name, "shared", recorder, remote=store, scopes=("main",))

        def use(name: str, numbers: range) -> None:
            for number in numbers:
                one = manager(name)
                with one.lease([request], parent, never) as (bind,):
                    (bind.source / f"{name}{number}").write_text(name)
                assert one.save(parent, never)[0].result == "saved"

        early, late = manager("early"), manager("late")
        with early.lease([request], parent, never) as (one,), late.lease([request], parent, never) as (other,):
            (one.source / "early").touch()
            (other.source / "late").touch()
        assert [each.save(parent, never)[0].result for each in (early, late)] == ["saved", "saved"]

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(use, "abc", [range(5)] * 3))
        for name in "abc":
            use(name, range(5, 6))
        with manager("last").lease([request], parent, never) as (bind,):
            found = {path.name for path in bind.source.iterdir()}
    assert not recorder.warnings()
    assert found == {"early", "late"} | {f"{name}{number}" for name in "abc" for number in range(6)}


def test_a_runner_that_has_the_mount_sees_what_others_saved(cli: Cli, dockerfile: Write, tag: str) -> None:
    shared = ("--cache-mounts", "shared")
    cli.build(dockerfile("RUN --mount=type=cache,target=/c echo first > /c/first"), *shared, tag=tag)
    other = another(cli, "other")
    other.build(dockerfile("RUN --mount=type=cache,target=/c echo second > /c/second"), *shared, tag=tag)
    third = dockerfile("RUN --mount=type=cache,target=/c cat /c/first /c/second && rm /c/first")
    added = mount_bytes(cli.build(third, *shared, tag=tag))
    assert added["restore"]["result"] == "added"
    assert added["save"]["result"] == "saved"
    last = dockerfile("RUN --mount=type=cache,target=/c test ! -e /c/first && cat /c/second")
    assert "second" in output(another(cli, "last"), last, *shared, "--push", "--tag", tag)


def test_a_registry_is_pruned_by_age(cli: Cli, dockerfile: Write, tag: str, registry: DockerRegistry) -> None:
    cli.build(dockerfile("RUN --mount=type=cache,target=/c echo x > /c/x"), "--cache-mounts", "shared", tag=tag)
    repository = tag.partition("/")[2].rpartition(":")[0]
    store = RegistryChunks(RegistryClient(registry.host), repository)
    assert store.prune(time.time() - 3600).mounts == 0
    assert store.prune(time.time() + 3600).mounts == 1
    tags = registry.tags(repository)
    assert "1" in tags, "the image itself stays"
    assert not [name for name in tags if name.startswith("ci-plugins-mount-")]
    empty = dockerfile("RUN --mount=type=cache,target=/c ls /c | wc -l")
    assert " 0\n" in output(another(cli, "second"), empty, "--cache-mounts", "shared", "--push", "--tag", tag)


def test_garbage_collection_of_a_registry_leaves_what_the_newest_index_needs(
    cli: Cli, dockerfile: Write, tmp_path: Path
) -> None:
    shared = ("--cache-mounts", "shared")
    with DockerRegistry.start(tmp_path / "registry") as own:
        cli.build(dockerfile(FILL), *shared, tag=f"{own.host}/app:1")
        cli.build(dockerfile("RUN --mount=type=cache,target=/c echo more > /c/more"), *shared, tag=f"{own.host}/app:1")
    run("docker-registry", "garbage-collect", "--delete-untagged", str(tmp_path / "registry/config.yml"))
    with DockerRegistry.start(tmp_path / "registry") as own:
        said = output(another(cli, "second"), dockerfile(READ), *shared, "--push", "--tag", f"{own.host}/app:2")
    assert "travelled" in said
    assert "lacks" not in said
