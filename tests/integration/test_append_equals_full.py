"""The same Dockerfile twice: built in full on an empty runner, and with its last steps appended by another empty
runner that knows the rest from the shared cache. Nobody may see a difference, and the second pulls no layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci_plugins.dockerfile import Add, Copy, Run, Workdir, parse_dockerfile
from ci_plugins.errors import DockerfileError
from tests.harness import Cli
from tests.integration.buildkit_context import (
    BASE_DOCKERFILE,
    ONBUILD_DOCKERFILE,
    Case,
    load_cases,
    write_base,
    write_context,
)
from tests.integration.pushed_images import PushedImage, differences, read_image
from tests.servers import DockerRegistry

WORKERS = 3


def first_of_tail(case: Case) -> int | None:
    """The line with which the steps begin that can be appended: after the last RUN of the last stage. None where there
    is nothing to append, or the case is about something else."""
    if case.fails or case.target or "crlf" in case.files or "onbuild" in case.dockerfile.lower():
        return None
    try:
        dockerfile = parse_dockerfile(case.dockerfile)
    except DockerfileError:
        return None
    instructions = dockerfile.stages[-1].instructions
    runs = [number for number, one in enumerate(instructions) if isinstance(one, Run)]
    tail = instructions[runs[-1] + 1 if runs else 0 :]
    if dockerfile.escape != "\\" or not any(isinstance(one, Copy | Add | Workdir) for one in tail):
        return None
    return tail[0].location.line


#: what BuildKit builds and we refuse (docs/compatibility.md)
REFUSED = {
    "copy-chown-unknown-name",
    "copy-glob-without-match",
    "copy-several-to-a-file",
    "copy-outside-of-context",
    "copy-several-onto-one-name",
}
CASES = {name: case for name, case in load_cases().items() if name not in REFUSED and first_of_tail(case)}


@dataclass(frozen=True)
class Pair:
    """What `full` and `appended` became; `pulled`: layers whose bytes the appending runner asked for."""

    full: PushedImage
    appended: PushedImage
    pulled: list[str]
    executed: list[str]


class Bench:
    def __init__(self, folder: Path, registry: DockerRegistry) -> None:
        self.folder, self.registry = folder, registry

    def pair(self, case: Case, context: Path, images: Mapping[str, str]) -> Pair | str:
        """Or what a build said that failed."""
        place = self.folder / case.name
        dockerfile, context = case.write(place, context, images)
        text = dockerfile.read_text()
        line = first_of_tail(case)
        assert line is not None
        (place / "Beginning").write_text("".join(text.splitlines(keepends=True)[: line - 1]))
        repository = f"append/{case.name}"
        for number, (tag, file, cache) in enumerate(
            [("full", dockerfile, "off"), ("beginning", place / "Beginning", "auto"), ("appended", dockerfile, "auto")]
        ):
            home = place / f"runner{number}"
            home.mkdir()
            cli = Cli(home, place / f"state{number}")
            done = cli(
                "build", context, "--file", file, "--tag", f"{self.registry.host}/{repository}:{tag}", "--push",
                "--state", cli.state, "--progress", "plain", "--network", "none", "--cache", cache,
                *[f"--build-arg={name}={value}" for name, value in case.args.items()], check=False,
            )  # fmt: skip
            if done.returncode:
                return f"{tag}: code {done.returncode}\n{done.stderr}"
        full = read_image(self.registry, repository, "full", place / "read-full")
        appended = read_image(self.registry, repository, "appended", place / "read-appended")
        snapshots = [*(place / "state2/snapshots/by-chain").iterdir()]
        return Pair(
            full, appended, [str(path) for path in snapshots], re.findall(r"\] RUN [^\n]*(?<!cached)$", done.stderr)
        )


@pytest.fixture(scope="module")
def pairs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, registry: DockerRegistry, base_image: str
) -> Mapping[str, Pair | str]:
    selected = {item.name for item in request.session.items}
    folder = tmp_path_factory.mktemp("append")
    (folder / "home").mkdir()
    (folder / "context").mkdir()
    cli = Cli(folder / "home", folder / "state")
    context = write_context(folder / "context")
    images = {"bare": base_image}
    for name, text in (("base", BASE_DOCKERFILE), ("onbuild", ONBUILD_DOCKERFILE)):
        (folder / name).mkdir()
        write_base(folder / name)
        for other, reference in images.items():
            text = text.replace(f"@{other}", reference)
        (folder / name / "Dockerfile").write_text(text)
        images[name] = cli.build(folder / name, tag=f"{registry.host}/append-{name}:1").tag
    bench = Bench(folder, registry)
    chosen = [case for case in CASES.values() if f"{test_appended_equals_full.__name__}[{case.name}]" in selected]
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(
            zip(
                (case.name for case in chosen),
                pool.map(lambda case: bench.pair(case, context, images), chosen),
                strict=True,
            )
        )


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_appended_equals_full(name: str, pairs: Mapping[str, Pair | str]) -> None:
    pair = pairs[name]
    if isinstance(pair, str):
        pytest.fail(pair, pytrace=False)
    assert list(differences(pair.full, pair.appended)) == []
    assert pair.executed == []
    if "--from" not in CASES[name].dockerfile:
        assert pair.pulled == [], "nothing stands on the files of the layers below"
