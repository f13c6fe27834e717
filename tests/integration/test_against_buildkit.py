"""Every case of buildkit_cases/ built twice, by us and by BuildKit, pushed to one registry and compared there.

Compared: the merged file tree (type, mode, owner, content, links, hard links, attributes; times where they are not
the build's own), the part of the config that decides how the image runs, and the history. What differs on purpose
stands in KNOWN, with the words of docs/compatibility.md that say so. All cases take three minutes on two cores;
`-k copy-link --nightly` builds a few.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Cli
from tests.integration.buildkit_context import (
    BASE_DOCKERFILE,
    ONBUILD_DOCKERFILE,
    Case,
    load_cases,
    write_base,
    write_context,
)
from tests.integration.dockerd import Dockerd, missing
from tests.integration.pushed_images import PushedImage, differences, read_image
from tests.servers import DockerRegistry

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

CASES = load_cases()
#: builds at a time
WORKERS = 3


@dataclass(frozen=True)
class Known:
    """A difference on purpose: what docs/compatibility.md says, and each line of `differences`."""

    documented: str
    lines: tuple[str, ...]


def _known(documented: str, *lines: str) -> Known:
    return Known(documented, lines)


_ATTRIBUTES = "extended attributes other than `security.capability`"
_MOUNT_POINTS = "mount points of a `RUN` that the image lacks"
_CHMOD = "directories created by `COPY --chmod=0700`"
_ONE_NAME = "several files copied onto one file name"
_NOTED = "xattrs {'user.note': b'kept?'} | {}"

KNOWN: Mapping[str, Known] = {
    "add-tar-chown": _known(
        "`ADD --chown` of an archive",
        *(
            f"/owned/{path}: owner 1000:50 | 123:456"
            for path in (
                "left/out/ünï",
                "tree",
                "tree/dir",
                "tree/fifo",
                "tree/file",
                "tree/first",
                "tree/hard",
                "tree/link",
            )
        ),
    ),
    "add-tar-with-attributes": _known(_ATTRIBUTES, f"/noted: {_NOTED}"),
    "arg-several-on-one-line": _known(
        "`ARG A=1 B=$A` on one line", "Labels: {'v': '1|cli|three 1|'} | {'v': '1|cli|three |'}"
    ),
    "arg-targetstage": _known("`ARG TARGETSTAGE`", "Labels: {'stage': 'middle'} | {'stage': ''}"),
    "copy-attributes": _known(_ATTRIBUTES, f"/x.txt: {_NOTED}"),
    "copy-chmod-and-chown": _known(_CHMOD, "/p: mode 0600 | 0755"),
    "copy-chmod-makes-directories": _known(_CHMOD, "/made: mode 0700 | 0755", "/made/deeper: mode 0700 | 0755"),
    "copy-chmod-symbolic": _known("symbolic `--chmod`", "/d/one.txt: mode 0644 | 0664", "/d/sub: mode 0755 | 2770"),
    "copy-chown-unknown-name": _known("`COPY --chown` with a name that `/etc/passwd` lacks", "fails | builds"),
    "copy-glob-without-match": _known("a wildcard of `COPY` that matches nothing", "fails | builds"),
    "copy-heredoc-flags": _known(_CHMOD, "/three: mode 0600 | 0755"),
    "copy-link-flag-and-names": _known("`COPY --link --chown` with a name", "builds | fails"),
    "copy-outside-of-context": _known("`COPY ../file .`", "fails | builds"),
    "copy-several-onto-one-name": _known(_ONE_NAME, "fails | builds"),
    "copy-several-to-a-file": _known(_ONE_NAME, "fails | builds"),
    "copy-whole-context": _known(_ATTRIBUTES, f"/all/x.txt: {_NOTED}"),
    "ignore": _known(_ATTRIBUTES, f"/all/x.txt: {_NOTED}"),
    "ignore-beside-the-dockerfile": _known(_ATTRIBUTES, f"/all/x.txt: {_NOTED}"),
    "onbuild-kept": _known("| `ONBUILD` |", "history: 12 entries | 9 entries"),
    "onbuild-run-in-stage": _known("| `ONBUILD` |", "history: 12 entries | 11 entries"),
    "run-on-attributes": _known(_ATTRIBUTES, f"/noted: {_NOTED}"),
    "run-on-bare-busybox": _known(
        _MOUNT_POINTS, "/dev: missing | there", "/proc: missing | there", "/sys: missing | there"
    ),
    "run-special-files": _known(
        "a second name (hard link)",
        "/etc/hard: names etc/hard etc/hard2 | ",
        "/etc/hard2: names etc/hard etc/hard2 | ",
    ),
    "stages-scratch-run": _known(
        _MOUNT_POINTS, "/dev: missing | there", "/proc: missing | there", "/sys: missing | there"
    ),
    "stages-target-number": _known("`--target` with a stage's number", "builds | fails"),
    "stages-unused-takes-from-later": _known("`COPY --from` a later stage", "fails | builds"),
    "variables-in-instructions": _known("| `ONBUILD` |", "history: 19 entries | 18 entries"),
}


@dataclass(frozen=True)
class Failed:
    """A build that failed, with all it said."""

    output: str


Result = PushedImage | Failed


@dataclass(frozen=True)
class Build:
    """A case on its way: where its files are, and the names it gets in the registry."""

    case: Case
    dockerfile: Path
    context: Path


class Bench:
    """Builds cases with both builders; the slow part, done once for the module."""

    def __init__(self, folder: Path, registry: DockerRegistry, cli: Cli, docker: Dockerd) -> None:
        self.folder, self.registry, self.cli, self.docker = folder, registry, cli, docker

    def ours(self, build: Build) -> Failed | None:
        done = self.cli(
            "build", build.context, *self._arguments(build), "--tag", self._name(build.case, "ours"), "--push",
            "--state", self.cli.state, "--progress", "plain", "--network", "none", check=False,
        )  # fmt: skip
        assert done.returncode != 1, f"a mistake of the program's own:\n{done.stdout}{done.stderr}"
        return Failed(done.stdout + done.stderr) if done.returncode else None

    def theirs(self, build: Build) -> Failed | None:
        done = subprocess.run(
            ["docker", "buildx", "build", "--progress=plain", "--network=none", *self._arguments(build), "--output",
             f"type=image,name={self._name(build.case, 'theirs')},push=true,oci-mediatypes=true", build.context],
            env=self.docker.environment({"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )  # fmt: skip
        return Failed(done.stdout + done.stderr) if done.returncode else None

    def read(self, case: Case, tag: str) -> PushedImage:
        return read_image(self.registry, f"cases/{case.name}", tag, self.folder / f"{case.name}.{tag}")

    def _name(self, case: Case, tag: str) -> str:
        return f"{self.registry.host}/cases/{case.name}:{tag}"

    def _arguments(self, build: Build) -> list[str]:
        """What both command lines call the same."""
        given = [f"--build-arg={name}={value}" for name, value in build.case.args.items()]
        target = [f"--target={build.case.target}"] if build.case.target else []
        return [f"--file={build.dockerfile}", *given, *target]


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, registry: DockerRegistry, base_image: str
) -> Mapping[str, tuple[Result, Result]]:
    """By name: what we made of a case, and what BuildKit made. Only cases whose tests were selected are built."""
    selected = {item.name for item in request.session.items}
    folder = tmp_path_factory.mktemp("buildkit")
    (folder / "home").mkdir()
    (folder / "context").mkdir()
    cli = Cli(folder / "home", folder / "state")
    context = write_context(folder / "context")
    images = {"bare": base_image}
    images["base"] = _image(cli, folder / "base", BASE_DOCKERFILE, images, f"{registry.host}/cases-base:1")
    images["onbuild"] = _image(cli, folder / "onbuild", ONBUILD_DOCKERFILE, images, f"{registry.host}/cases-onbuild:1")
    chosen = [case for case in CASES.values() if f"{test_same_image.__name__}[{case.name}]" in selected]
    builds = [Build(case, *case.write(folder / case.name, context, images)) for case in chosen]
    with Dockerd.start(folder / "docker") as docker, ThreadPoolExecutor(WORKERS) as pool:
        bench = Bench(folder, registry, cli, docker)
        failed_ours = dict(zip((b.case.name for b in builds), pool.map(bench.ours, builds), strict=True))
        failed_theirs = dict(zip((b.case.name for b in builds), pool.map(bench.theirs, builds), strict=True))

        def result(build: Build) -> tuple[Result, Result]:
            name = build.case.name
            return (
                failed_ours[name] or bench.read(build.case, "ours"),
                failed_theirs[name] or bench.read(build.case, "theirs"),
            )

        return dict(zip((build.case.name for build in builds), pool.map(result, builds), strict=True))


def _image(cli: Cli, folder: Path, dockerfile: str, images: Mapping[str, str], tag: str) -> str:
    folder.mkdir()
    write_base(folder)
    for name, reference in images.items():
        dockerfile = dockerfile.replace(f"@{name}", reference)
    (folder / "Dockerfile").write_text(dockerfile)
    return cli.build(folder, tag=tag).tag


@pytest.mark.parametrize("name", CASES)
def test_same_image(name: str, results: Mapping[str, tuple[Result, Result]]) -> None:
    ours, theirs = results[name]
    known = KNOWN.get(name)
    found = tuple(compare(ours, theirs))
    if found != (expected := known.lines if known else ()):
        said = [f"{who}:\n{made.output[-1500:]}" for who, made in _named(ours, theirs) if isinstance(made, Failed)]
        pytest.fail("\n".join(["ours | theirs", *found, "expected:", *expected, *said]), pytrace=False)
    if known is None:
        assert isinstance(theirs, Failed) == CASES[name].fails, "the case does not do what it is written for"


def _named(ours: Result, theirs: Result) -> list[tuple[str, Result]]:
    return [("ours", ours), ("BuildKit", theirs)]


def compare(ours: Result, theirs: Result) -> Iterator[str]:
    if isinstance(ours, Failed) or isinstance(theirs, Failed):
        said = [("fails" if isinstance(result, Failed) else "builds") for result in (ours, theirs)]
        if said[0] != said[1]:
            yield " | ".join(said)
        return
    yield from differences(ours, theirs)


@pytest.mark.parametrize("name", KNOWN)
def test_differences_on_purpose_are_documented(name: str) -> None:
    document = Path(__file__).resolve().parents[2] / "docs/compatibility.md"
    assert KNOWN[name].documented in document.read_text()
