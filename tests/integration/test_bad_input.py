"""What people and networks get wrong: one paragraph, a place, a remedy, an exit code of its own; nothing published."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.faults import Fault, FaultProxy
from tests.harness import Cli, run
from tests.servers import DockerRegistry


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "file").write_text("content")
    (directory / ".dockerignore").write_text("ignored\n")
    (directory / "ignored").write_text("x")
    return directory


def failed(done: subprocess.CompletedProcess[str], code: int, *said: str) -> str:
    """Check the exit code and the form of the message: error, perhaps an excerpt, what to do next."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    paragraph = done.stderr[done.stderr.index("error: ") :]
    assert "next: " in paragraph
    for words in said:
        assert words in paragraph, paragraph
    return paragraph


def tags(registry: DockerRegistry, repository: str) -> str:
    return subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{registry.host}/{repository}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize(
    ("dockerfile", "code", "said"),
    [
        (None, 10, ("cannot read the Dockerfile", "--file")),
        ("", 11, ("Dockerfile:1:1", "FROM")),
        ("# only a comment\n", 11, ("Dockerfile:1:1",)),
        ("FROM scratch\nCOPPY file /\n", 13, ("Dockerfile:2:1", "COPPY", "COPY")),
        ("FROM scratch\nCOPY --froom=x file /\n", 12, ("Dockerfile:2:", "--froom")),
        ("FROM scratch\nCOPY --from=3 file /\n", 14, ("Dockerfile:2:1", "3")),
        ("FROM scratch\nCOPY nothing /\n", 21, ("Dockerfile:2:1", "nothing")),
        ("FROM scratch\nCOPY ignored /\n", 21, ("Dockerfile:2:1", ".dockerignore")),
        ("FROM scratch\nCOPY ../file /\n", 22, ("Dockerfile:2:1", "../file")),
        ("FROM scratch\nADD https://example.com/x /\n", 15, ("Dockerfile:2:1", "ADD of a URL")),
        ("FROM scratch\nRUN --mount=type=secret,id=x make\n", 15, ("Dockerfile:2:1", "RUN --mount=type=secret")),
        ('FROM scratch\nARG V\nLABEL v="${V:?is needed}"\n', 16, ("Dockerfile:3:", "is needed")),
        ("FROM scratch\nEXPOSE 99999\n", 12, ("Dockerfile:2:1", "99999")),
        ("FROM UPPER/case\n", 12, ("Dockerfile:1:1", "lower case")),
        ("FROM --platform=linux/s390x scratch\n", 45, ("Dockerfile:1:1", "linux/s390x")),
        ("FROM scratch\nCOPY --chown=nobody-known file /\n", 33, ("Dockerfile:2:1", "nobody-known")),
    ],
)
def test_mistakes_in_a_dockerfile(
    cli: Cli, context: Path, dockerfile: str | None, code: int, said: tuple[str, ...]
) -> None:
    if dockerfile is not None:
        (context / "Dockerfile").write_text(dockerfile)
    failed(cli("build", context, "--state", cli.state, check=False), code, *said)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--tagg", "x"], 2, ("--tagg", "--tag")),
        (["--target", "nowhere"], 14, ("nowhere", "Known stages: 0 (app)")),
        (["--platform", "linux/s390x"], 45, ("linux/s390x",)),
        (["--push"], 2, ("--push", "--tag")),
        (["--secret", "id=x"], 2, ("--secret",)),
        (["--build-arg"], 2, ("--build-arg",)),
        (["--build-arg", "SOURCE_DATE_EPOCH=yesterday"], 2, ("SOURCE_DATE_EPOCH=yesterday", "seconds since 1970")),
    ],
)
def test_mistakes_on_the_command_line(
    cli: Cli, context: Path, arguments: list[str], code: int, said: tuple[str, ...]
) -> None:
    (context / "Dockerfile").write_text("FROM scratch AS app\nCOPY file /\n")
    failed(cli("build", context, "--state", cli.state, *arguments, check=False), code, *said)


def test_a_context_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY x /\n")
    arguments = ("--file", tmp_path / "Dockerfile", "--state", cli.state)
    failed(cli("build", tmp_path / "missing", *arguments, check=False), 20, "missing")


def test_a_registry_that_is_not_there(cli: Cli, context: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        (context / "Dockerfile").write_text(f"FROM {host}/base:1\nCOPY file /\n")
        failed(cli("build", context, "--state", cli.state, check=False), 40, "Dockerfile:1:1", host)


def test_an_image_that_is_not_there(cli: Cli, context: Path, registry: DockerRegistry) -> None:
    (context / "Dockerfile").write_text(f"FROM {registry.host}/no/such:image\n")
    failed(cli("build", context, "--state", cli.state, check=False), 42, "Dockerfile:1:1", "no/such:image")


def test_wrong_credentials_are_found_and_the_password_is_not_shown(cli: Cli, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (tmp_path / "guarded").mkdir()
    with DockerRegistry.start(tmp_path / "guarded", htpasswd=("somebody", "right")) as guarded:
        docker = cli.home / ".docker"
        docker.mkdir()
        (docker / "config.json").write_text(
            f'{{"auths": {{"{guarded.host}": {{"username": "somebody", "password": "wr0ng-secret"}}}}}}'
        )
        arguments = ("--tag", f"{guarded.host}/app:1", "--push", "--state", cli.state)
        paragraph = failed(cli("build", context, *arguments, check=False), 41, guarded.host, "config.json")
        assert "wr0ng-secret" not in paragraph


def test_a_run_that_fails_shows_command_code_output_and_place(cli: Cli, context: Path, base_image: str) -> None:
    (context / "Dockerfile").write_text(
        f"FROM {base_image}\nRUN echo fine\nRUN echo what went wrong >&2; \\\n    exit 7\nRUN echo never\n"
    )
    done = cli("build", context, "--state", cli.state, "--report-dir", cli.home / "report", check=False)
    paragraph = failed(done, 30, "Dockerfile:3:1", "code 7", "what went wrong", "RUN echo what went wrong")
    assert "exit 7" in paragraph
    assert "] RUN echo never" not in done.stderr
    assert (cli.home / "report" / "timing.html").exists()
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo fine\nRUN echo repaired\n")
    again = cli.build(context, tag="app:1", push=False)
    states = [step["state"] for step in again.timing["steps"]]
    assert states == ["cached", "ran"], "the step that had finished is kept"


def test_a_command_that_does_not_exist(cli: Cli, context: Path, base_image: str) -> None:
    (context / "Dockerfile").write_text(f'FROM {base_image}\nRUN ["/no/such/program", "x"]\n')
    failed(cli("build", context, "--state", cli.state, check=False), 30, "Dockerfile:2:1", "/no/such/program")


@pytest.mark.parametrize(("damage", "code"), [("a changed byte", 50), ("a missing end", 51)])
def test_a_base_layer_that_is_not_what_it_should_be(
    cli: Cli, context: Path, tmp_path: Path, base_image: str, damage: str, code: int
) -> None:
    (tmp_path / "own").mkdir()
    with DockerRegistry.start(tmp_path / "own") as own:
        base = f"{own.host}/base:1"
        run(
            "skopeo",
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            f"docker://{base_image}",
            f"docker://{base}",
        )
        manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{base}"))
        blob = own.blob_path(manifest["layers"][0]["digest"])
        sound = blob.read_bytes()
        changed = bytes([sound[1000] ^ 1])
        blob.write_bytes(sound[:1000] + (changed + sound[1001:] if damage == "a changed byte" else b""))
        (context / "Dockerfile").write_text(f"FROM {base}\nRUN touch /made\n")
        arguments = ("--tag", f"{own.host}/app:1", "--push", "--state", cli.state)
        failed(cli("build", context, *arguments, check=False), code, manifest["layers"][0]["digest"])
        assert '"1"' not in tags(own, "app")
        blob.write_bytes(sound)
        cli.build(context, tag=f"{own.host}/app:1")
        assert '"1"' in tags(own, "app")


def test_an_upload_that_fails_publishes_nothing_and_the_next_run_goes_on(
    cli: Cli, context: Path, registry: DockerRegistry, base_image: str
) -> None:
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo 1 > /one\nCOPY file /two\n")
    with FaultProxy.start(int(registry.host.rpartition(":")[2])) as proxy:
        forbidden = (403, {"Content-Type": "application/json"}, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
        proxy.inject(Fault("POST", "/blobs/uploads/", times=100, answer=forbidden))
        arguments = ("--tag", f"{proxy.host}/refused/app:1", "--push", "--state", cli.state)
        done = cli("build", context, *arguments, check=False)
        failed(done, 41 if done.returncode == 41 else 43, "read only")
    assert '"1"' not in tags(registry, "refused/app")
    cli.build(context, tag=f"{registry.host}/refused/app:1")
    assert '"1"' in tags(registry, "refused/app")


def test_a_full_disk(cli: Cli, context: Path, base_image: str, tmp_path: Path) -> None:
    """The state on a file system of 24 MiB; afterwards, with room, the finished steps are not run again."""
    image, mount = tmp_path / "small.img", tmp_path / "small"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    run("mount", "-o", "loop", str(image), str(mount))
    try:
        (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo small > /small\nCOPY big /big\n")
        run("dd", "if=/dev/urandom", f"of={context / 'big'}", "bs=1M", "count=40", "status=none")
        state = mount / "state"
        failed(cli("build", context, "--state", state, check=False), 60, "no space left")
        moved = tmp_path / "moved"
        shutil.copytree(state, moved, symlinks=True)
    finally:
        run("umount", str(mount))
    again = Cli(cli.home, moved).build(context, tag="app:1", push=False)
    assert [step["state"] for step in again.timing["steps"]] == ["cached", "ran"]


def test_a_state_that_cannot_be_written(cli: Cli, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (tmp_path / "occupied").write_text("a file")
    failed(cli("build", context, "--state", tmp_path / "occupied", check=False), 61, "occupied")
