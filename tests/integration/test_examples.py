"""The examples as script/demo uses them: built, pushed, run by other people's tools, changed, built again."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Built, Cli, RegistryTraffic, RunningImage, run
from tests.servers import DockerRegistry, free_port

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., RunningImage]


@dataclass(frozen=True)
class Example:
    """An example, the change made to it, and how its answer shows the change."""

    name: str
    file: str
    before: str
    after: str
    #: steps that run again after the change: none of them a RUN
    path: str = ""
    answer_before: str = ""
    answer_after: str = ""


WEB = (
    Example(
        "python-web",
        "src/app.py",
        'GREETING = "Temperatures"',
        'GREETING = "Warm days"',
        "/summary.json",
        '{"greeting":"Temperatures","mean":10.0,"readings":365,"warmest_month":7}',
        '{"greeting":"Warm days","mean":10.0,"readings":365,"warmest_month":7}',
    ),
    Example(
        "node-web",
        "src/server.js",
        "toLowerCase()",
        "toUpperCase()",
        "/words?text=one+Two+two",
        '[{"word":"two","count":2},{"word":"one","count":1}]',
        '[{"word":"TWO","count":2},{"word":"ONE","count":1}]',
    ),
)


@pytest.mark.parametrize("example", WEB, ids=lambda example: example.name)
def test_a_web_service(
    example: Example,
    cli: Cli,
    registry: DockerRegistry,
    debian_base: str,
    network_profile: Path,
    traffic: RegistryTraffic,
    run_image: Run,
    tmp_path: Path,
) -> None:
    context = tmp_path / example.name
    shutil.copytree(ROOT / "examples" / example.name, context)
    tag = f"{registry.host}/examples/{example.name}:1"

    def build() -> Built:
        return cli.build(context, "--build-arg", f"BASE={debian_base}", "--config", network_profile, tag=tag)

    first = build()
    assert steps_run(first) > 0
    assert answer(run_image, tag, example.path) == example.answer_before

    traffic.clear()
    same = build()
    assert same.digest == first.digest
    assert steps_run(same) == 0
    assert traffic.uploads() == []

    edit(context / example.file, example.before, example.after)
    traffic.clear()
    changed = build()
    assert changed.digest != first.digest
    assert instructions_run(changed) == ["COPY"]
    # One layer, its table of contents and one config.
    assert len({path.split("?")[0].rpartition("/")[2] for _, path in traffic.uploads() if "?" in path}) <= 3
    assert answer(run_image, tag, example.path) == example.answer_after


def test_a_static_program(
    cli: Cli, registry: DockerRegistry, debian_base: str, network_profile: Path, run_image: Run, tmp_path: Path
) -> None:
    context = tmp_path / "c-static"
    shutil.copytree(ROOT / "examples/c-static", context)
    tag = f"{registry.host}/examples/c-static:1"

    def build() -> Built:
        return cli.build(context, "--build-arg", f"BASE={debian_base}", "--config", network_profile, tag=tag)

    def output() -> str:
        container = run_image(tag)
        assert container.wait() == 0, container.output
        return container.output

    build()
    assert re.fullmatch(r"\d+\t/lstree\n1 file\n", output())
    # podman mounts /etc/hosts and the like as well, and they are on the same file system.
    assert re.search(r"^\d+\t/lstree$", podman_run(tag), re.M)
    manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{tag}"))
    assert len(manifest["layers"]) == 1
    assert manifest["layers"][0]["size"] < 1 << 20

    edit(context / "src/main.c", '"%d file%s\\n"', '"%d file%s in the image\\n"')
    changed = build()
    assert instructions_run(changed) == ["COPY", "RUN", "COPY"]
    assert re.fullmatch(r"\d+\t/lstree\n1 file in the image\n", output())


def podman_run(reference: str) -> str:
    """What the image's own command says under podman, which pulls it itself."""
    # podman refuses a runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        # runc: podman's default, crun, refuses the hybrid control groups that some machines still have.
        podman = ["podman", f"--root={folder}/root", f"--runroot={folder}/run", "--storage-driver=vfs"]
        podman += ["--runtime=runc", "--cgroup-manager=cgroupfs"]
        # Its default limits are higher than what root may set where it lacks CAP_SYS_RESOURCE.
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
        try:
            return run(*podman, "run", "--rm", "--network=host", *limits, "--tls-verify=false", reference)
        finally:
            run(*podman, "rm", "--all", "--force")


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, f"{file} holds {before!r} {text.count(before)} times"
    file.write_text(text.replace(before, after))


def steps_run(built: Built) -> int:
    return len(instructions_run(built))


def instructions_run(built: Built) -> list[str]:
    """The instructions that were executed, in order; those that only change the config are not."""
    steps = [step["instruction"].split()[0] for step in built.timing["steps"] if step["state"] == "ran"]
    return [instruction for instruction in steps if instruction in ("RUN", "COPY", "ADD")]


def answer(run_image: Run, reference: str, path: str) -> str:
    """Start the image's own command and ask it over HTTP, as its user would."""
    port = free_port()
    container = run_image(reference, env={"PORT": str(port), "HOST": "127.0.0.1"})
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
                    return str(response.read().decode()).strip()
            except urllib.error.URLError:
                ended = container.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    pytest.fail(f"{reference} does not answer:\n{container.output}")
                time.sleep(0.1)
    finally:
        container.stop()
