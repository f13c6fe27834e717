"""Images built by podman, BuildKit and Docker's classic builder as a source of layers, through a real registry."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Built, Cli, RegistryTraffic
from tests.integration.foreign_builders import Builder, buildkit, classic, podman
from tests.servers import DockerRegistry

BUILDERS: dict[str, Callable[[Path], AbstractContextManager[Builder]]] = {
    "podman": podman,
    "buildkit": buildkit,
    "classic": classic,
}

DOCKERFILE = """\
FROM {base}
ENV LEVEL=1 MODE=fast
ARG VERSION=1
RUN echo first $LEVEL $VERSION > /first && \\
    head -c 8 /dev/urandom > /seed
COPY requirements.txt conf/ /srv/
USER nobody
RUN ["cp", "/etc/passwd", "/tmp/installed"]
USER root
RUN head -c 8 /dev/urandom > /second
COPY main.py /srv/main.py
CMD ["cat", "/srv/main.py"]
"""
#: positions of the RUN steps and the COPY between them
REUSED = ["RUN", "COPY", "RUN", "RUN"]


@dataclass(frozen=True)
class Elsewhere:
    """An image that somebody else built of `context`, with VERSION=2."""

    registry: DockerRegistry
    builder: str
    repository: str
    context: Path
    base: str

    @property
    def layers(self) -> list[str]:
        return layers_of(self.registry, self.repository, "1")


@pytest.fixture(scope="module", params=BUILDERS)
def elsewhere(
    request: pytest.FixtureRequest, registry: DockerRegistry, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp(request.param)
    context = write_context(folder / "context", base_image)
    repository = f"{registry.host}/elsewhere/{request.param}"
    with BUILDERS[request.param](folder / "builder") as build:
        build(context, f"{repository}:1", {"VERSION": "2"})
        yield Elsewhere(registry, request.param, f"elsewhere/{request.param}", context, base_image)


def write_context(folder: Path, base: str) -> Path:
    (folder / "conf").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE.format(base=base))
    (folder / "requirements.txt").write_text("flask\n")
    (folder / "conf/app.ini").write_text("[app]\n")
    (folder / "conf/link").symlink_to("app.ini")
    (folder / "main.py").write_text("print(1)\n")
    for path in (folder / "requirements.txt", folder / "conf/app.ini"):
        path.chmod(0o640)
    return folder


def layers_of(registry: DockerRegistry, repository: str, tag: str) -> list[str]:
    """Digests of the layers of an image for this platform, from the registry's own files."""
    link = registry.root / f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
    document = json.loads(registry.blob_path(link.read_text()).read_bytes())
    if "manifests" in document:
        entry = next(one for one in document["manifests"] if one["platform"]["os"] != "unknown")
        document = json.loads(registry.blob_path(entry["digest"]).read_bytes())
    return [layer["digest"] for layer in document["layers"]]


def index(cli: Cli, *arguments: str) -> dict[str, Any]:
    said = cli("cache", "index", *arguments, "--state", cli.state, "--json").stdout
    return {line["repository"]: line for line in map(json.loads, said.splitlines())}


def states(built: Built) -> list[tuple[str, str]]:
    return [(step["instruction"], step["state"]) for step in built.timing["steps"]]


def build(
    cli: Cli, elsewhere: Elsewhere, context: Path, *arguments: str, name: str, version: str = "2", trust: bool = True
) -> Built:
    trusting = ("--trust-foreign",) if trust else ()
    tag = f"{elsewhere.registry.host}/ours/{elsewhere.builder}-{name}:1"
    return cli.build(context, "--build-arg", f"VERSION={version}", *trusting, *arguments, tag=tag)


def test_run_steps_are_taken_from_an_image_built_elsewhere(
    elsewhere: Elsewhere, cli: Cli, traffic: RegistryTraffic
) -> None:
    found = index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    assert found[f"{elsewhere.registry.host}/{elsewhere.repository}"]["left_out"] == []
    traffic.clear()

    built = build(cli, elsewhere, elsewhere.context, "--cache", "off", name="same")

    assert states(built)[:-1] == [(name, "cached") for name in REUSED]
    assert states(built)[-1] == ("COPY", "ran")
    ours = layers_of(elsewhere.registry, f"ours/{elsewhere.builder}-same", "1")
    theirs = elsewhere.layers
    assert ours[:-1] == theirs[:-1]
    # of all layers, only the last COPY's bytes travel; the config too
    sent = [path for method, path in traffic.requests() if method in ("PATCH", "PUT") and "/blobs/uploads/" in path]
    assert len({path.partition("?")[0].rpartition("/")[2] for path in sent}) == 2


def test_the_plan_names_the_image(elsewhere: Elsewhere, cli: Cli) -> None:
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    arguments = ("plan", elsewhere.context, "--build-arg", "VERSION=2", "--state", cli.state)
    reason = f"built elsewhere, from {elsewhere.registry.host}/{elsewhere.repository}:1"
    assert reason not in cli(*arguments, "--json").stdout
    assert cli(*arguments, "--json", "--trust-foreign").stdout.count(reason) >= len(REUSED)
    assert "built elsewhere" in cli(*arguments, "--trust-foreign").stdout
    # nothing is written
    assert reason not in cli(*arguments, "--json").stdout


def test_what_was_found_is_a_step_like_any_other_afterwards(elsewhere: Elsewhere, cli: Cli) -> None:
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    build(cli, elsewhere, elsewhere.context, name="kept")
    again = build(cli, elsewhere, elsewhere.context, name="kept", trust=False)
    assert {state for _, state in states(again)} == {"cached"}


def test_nothing_is_taken_without_trust(elsewhere: Elsewhere, cli: Cli) -> None:
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    built = build(cli, elsewhere, elsewhere.context, name="distrust", trust=False)
    assert {state for _, state in states(built)} == {"ran"}


@pytest.mark.parametrize(
    ("what", "old", "new", "cached"),
    [
        ("command", "echo first", "echo other", 0),
        ("environment", "MODE=fast", "MODE=slow", 0),
        # a COPY is taken only together with a RUN after it
        ("user", "USER nobody", "USER 65534", 1),
        ("later-command", "> /second", "> /third", 3),
        ("owner", "COPY requirements.txt", "COPY --chown=1:1 requirements.txt", 1),
        ("destination", "conf/ /srv/", "conf/ /opt/", 1),
    ],
)
def test_a_dockerfile_that_differs_takes_only_what_comes_before(
    elsewhere: Elsewhere, cli: Cli, tmp_path: Path, what: str, old: str, new: str, cached: int
) -> None:
    context = write_context(tmp_path / "context", elsewhere.base)
    text = (context / "Dockerfile").read_text()
    assert old in text
    (context / "Dockerfile").write_text(text.replace(old, new))
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    built = build(cli, elsewhere, context, name=f"other-{what}")
    assert [state for _, state in states(built)].count("cached") == cached


def test_another_arg_value_takes_nothing(elsewhere: Elsewhere, cli: Cli) -> None:
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    built = build(cli, elsewhere, elsewhere.context, name="arg", version="3")
    assert {state for _, state in states(built)} == {"ran"}


@pytest.mark.parametrize("change", ["content", "mode", "link", "more", "less"])
def test_a_copied_file_that_differs_ends_it(elsewhere: Elsewhere, cli: Cli, tmp_path: Path, change: str) -> None:
    context = write_context(tmp_path / "context", elsewhere.base)
    match change:
        case "content":
            (context / "requirements.txt").write_text("flasK\n")
        case "mode":
            (context / "requirements.txt").chmod(0o600)
        case "link":
            (context / "conf/link").unlink()
            (context / "conf/link").symlink_to("app.INI")
        case "more":
            (context / "conf/more").write_text("")
        case "less":
            (context / "conf/link").unlink()
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    built = build(cli, elsewhere, context, name=f"copied-{change}")
    assert [state for _, state in states(built)] == ["cached", "ran", "ran", "ran", "ran"]


def test_another_base_takes_nothing(elsewhere: Elsewhere, cli: Cli, shared_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text(f"FROM {elsewhere.base}\nRUN touch /other\n")
    other = shared_cli.build(tmp_path / "base", tag=f"{elsewhere.registry.host}/other-base:{elsewhere.builder}").tag
    context = write_context(tmp_path / "context", other)
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    built = build(cli, elsewhere, context, name="base")
    assert {state for _, state in states(built)} == {"ran"}


def test_an_index_reads_only_what_has_changed(elsewhere: Elsewhere, cli: Cli, traffic: RegistryTraffic) -> None:
    name = f"{elsewhere.registry.host}/{elsewhere.repository}"
    first = index(cli, name)[name]
    assert (first["tags"], first["unchanged"], first["images"]) == (1, 0, 1)
    traffic.clear()
    again = index(cli, name)[name]
    assert (again["tags"], again["unchanged"], again["images"], again["removed"]) == (1, 1, 0, 0)
    assert [method for method, path in traffic.requests() if "/manifests/" in path or "/blobs/" in path] == ["HEAD"]


def test_a_blob_that_is_gone_is_built_again(elsewhere: Elsewhere, cli: Cli) -> None:
    index(cli, f"{elsewhere.registry.host}/{elsewhere.repository}")
    third_run = elsewhere.layers[-2]
    url = f"http://{elsewhere.registry.host}/v2/{elsewhere.repository}/blobs/{third_run}"
    links = elsewhere.registry.root / f"docker/registry/v2/repositories/{elsewhere.repository}/_layers/sha256"
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE")) as answer:
        assert answer.status == 202
    try:
        built = build(cli, elsewhere, elsewhere.context, name="gone")
    finally:
        link = links / third_run.partition(":")[2] / "link"
        link.parent.mkdir(exist_ok=True)
        link.write_text(third_run)
    assert [state for _, state in states(built)] == ["cached", "cached", "cached", "ran", "ran"]


def test_the_whole_catalog(registry: DockerRegistry, base_image: str, cli: Cli) -> None:
    found = index(cli, "--all", registry.host)
    assert f"{registry.host}/busybox" in found
    assert found[f"{registry.host}/busybox"]["layers"] > 0


def test_a_base_that_was_never_seen_is_read_once_and_not_extracted(
    registry: DockerRegistry, base_image: str, cli: Cli, traffic: RegistryTraffic, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("a")
    (context / "Dockerfile").write_text(f"FROM {base_image}\nCOPY a /tmp/\nWORKDIR /app\nCOPY a .\nCMD sh\n")

    cli.build(context, tag=f"{registry.host}/copied:1")

    base = layers_of(registry, "busybox", "1")
    fetched = [path.rpartition("/")[2] for method, path in traffic.requests() if method == "GET" and "/blobs/" in path]
    assert sorted(digest for digest in fetched if digest in base) == sorted(base)
    assert [path for path in (cli.state / "snapshots/data").iterdir() if any((path / "fs").rglob("*"))] == []
