"""Empty runners that go on where others stopped: what they ask the registry for, and what they make of it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from ci_plugins.build.share import BuildRecords
from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.registry_documents import EMPTY, snapshot_tag
from ci_plugins.events import Recorder
from ci_plugins.options import BuildOptions, parse
from ci_plugins.pipeline import build
from tests.harness import Built, Cli, RegistryTraffic, RunningImage, run
from tests.servers import DockerRegistry

DOCKERFILE = """\
FROM {base}
RUN head -c 3000000 /dev/urandom > /large && echo 1 > /made
WORKDIR /app
COPY requirements .
RUN cat requirements > /installed
COPY --chown=nobody src/ src/
CMD ["cat", "src/main"]
"""


@pytest.fixture
def context(tmp_path: Path, base_image: str) -> Path:
    directory = tmp_path / "context"
    (directory / "src").mkdir(parents=True)
    (directory / "Dockerfile").write_text(DOCKERFILE.format(base=base_image))
    (directory / "requirements").write_text("one\n")
    (directory / "src" / "main").write_text("first\n")
    (directory / "src" / "other").write_text("other\n")
    return directory


def states(built: Built) -> list[str]:
    return [step["state"] for step in built.timing["steps"]]


def layer_digests(tag: str) -> list[str]:
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{tag}")
    return [layer["digest"] for layer in json.loads(raw)["layers"]]


def pulled_layers(traffic: RegistryTraffic, *tags: str) -> list[str]:
    """Layers of these images whose bytes were asked for."""
    asked = [path for method, path in traffic.requests() if method == "GET"]
    return [digest for tag in tags for digest in layer_digests(tag) if any(digest in path for path in asked)]


def test_a_record_that_is_long_in_the_making_is_shared_too(
    runner: Callable[[], Cli],
    context: Path,
    registry: DockerRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer is sent and the image published as soon as its digest is known; its record comes after that."""
    tag, add = f"{registry.host}/late-records/app:1", BuildRecords.add

    def late(records: BuildRecords, record: CacheRecord) -> None:
        time.sleep(0.5)
        add(records, record)

    monkeypatch.setattr(BuildRecords, "add", late)
    arguments = ["build", str(context), "--tag", tag, "--push", "--state", str(tmp_path / "state")]
    options = parse(arguments, {"HOME": str(tmp_path)}).options
    assert isinstance(options, BuildOptions)
    build(options, Recorder())
    assert states(runner().build(context, tag=tag)) == ["cached"] * 5


def test_one_changed_file_pulls_no_layer(
    runner: Callable[[], Cli],
    context: Path,
    registry: DockerRegistry,
    traffic: RegistryTraffic,
    tmp_path: Path,
) -> None:
    tag = f"{registry.host}/one-file/app"
    first = runner().build(context, tag=f"{tag}:1")
    assert states(first) == ["ran"] * 5
    (context / "src" / "main").write_text("second\n")
    traffic.clear()
    second = runner().build(context, tag=f"{tag}:2")
    assert states(second) == ["cached"] * 4 + ["ran"]
    assert pulled_layers(traffic, f"{tag}:1") == []
    assert layer_digests(f"{tag}:2")[:-1] == layer_digests(f"{tag}:1")[:-1]
    image = RunningImage.start(f"{tag}:2", tmp_path / "running", {})
    try:
        assert image.wait() == 0
        assert image.output == "second\n"
        listing = run("ls", "-ln", str(image.bundle / "rootfs" / "app" / "src" / "main"))
        assert listing.split()[2:4] == ["65534", "65534"], "--chown=nobody, resolved without the files"
    finally:
        image.stop()


def test_one_changed_file_asks_for_nothing_twice(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/few-requests/app"
    runner().build(context, "--cache-scope", "main", tag=f"{tag}:1")
    (context / "src" / "main").write_text("second\n")
    traffic.clear()
    runner().build(context, "--cache-scope", "main", tag=f"{tag}:2")
    asked = [(method, path.partition("/few-requests/app/")[2]) for method, path in traffic.requests()]
    asked = [(method, path) for method, path in asked if path]
    heads = Counter(path for method, path in asked if method == "HEAD")
    assert f"blobs/{EMPTY.digest}" not in heads, "it holds the snapshot that was read"
    # before and after they are sent: the config, the table of contents; only after: the layer; the others are there
    assert sorted(heads.values(), reverse=True)[:3] == [2, 2, 1]
    order = [path for method, path in asked if method == "PUT" and "/uploads/" not in path]
    assert order[0] == "manifests/2", "records promise what is in place"
    assert order[-1] == f"manifests/{snapshot_tag('main')}"
    records = [path for path in order[1:-1] if path.startswith(f"manifests/{snapshot_tag('main')}-")]
    assert len(records) == len(order) - 2 == len(set(records))
    after = asked[asked.index(("PUT", "manifests/2")) :]
    snapshot = [method for method, path in after if path == f"manifests/{snapshot_tag('main')}"]
    assert snapshot == ["GET", "PUT", "GET"]
    assert not [path for method, path in after if method == "GET" and "/blobs/" in path]


def test_nothing_changed_moves_nothing(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/unchanged/app:1"
    first = runner().build(context, tag=tag)
    traffic.clear()
    second = runner().build(context, tag=tag)
    assert states(second) == ["cached"] * 5
    assert second.digest == first.digest
    assert traffic.uploads() == []
    assert pulled_layers(traffic, tag) == []


def test_a_full_hit_for_another_tag_puts_a_manifest_and_nothing_else(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/retag/app"
    first = runner().build(context, tag=f"{tag}:1")
    traffic.clear()
    second = runner().build(context, tag=f"{tag}:2")
    assert second.digest == first.digest
    assert pulled_layers(traffic, f"{tag}:1") == []
    assert [path for method, path in traffic.uploads() if method == "PATCH"] == []


def test_a_run_fetches_what_it_stands_on_and_no_more(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/run-after/app"
    runner().build(context, tag=f"{tag}:1")
    (context / "requirements").write_text("two\n")
    traffic.clear()
    second = runner().build(context, "--prefer", "pull", tag=f"{tag}:2")
    assert states(second) == ["cached", "cached", "ran", "ran", "ran"]
    layers = layer_digests(f"{tag}:1")
    assert pulled_layers(traffic, f"{tag}:1") == layers[:-3], "the base, the RUN and the WORKDIR"


def test_a_copy_from_a_reused_stage_fetches_the_layer_that_holds_the_file(
    runner: Callable[[], Cli],
    tmp_path: Path,
    base_image: str,
    registry: DockerRegistry,
    traffic: RegistryTraffic,
) -> None:
    context = tmp_path / "stages"
    context.mkdir()
    text = (
        f"FROM {base_image} AS build\nRUN echo a > /a\nRUN echo b > /b\nRUN echo c > /c\n"
        f"FROM scratch\nCOPY file /\nCOPY --from=build /b /b\n"
    )
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("1")
    tag = f"{registry.host}/copy-from/app"
    runner().build(context, tag=f"{tag}:1")
    (context / "file").write_text("2")
    traffic.clear()
    second = runner().build(context, tag=f"{tag}:2")
    assert sorted(states(second)) == ["cached"] * 3 + ["ran"] * 2
    assert pulled_layers(traffic, base_image) == []
    blobs = [path for method, path in traffic.requests() if method == "GET" and "/blobs/" in path]
    sizes = [len(path) for path in blobs]
    assert len(sizes) <= 3 + len(layer_digests(base_image)) + 1 + 1, blobs


def test_a_blob_that_is_gone_makes_the_build_slower_and_not_wrong(
    runner: Callable[[], Cli], context: Path, tmp_path: Path, base_image: str
) -> None:
    (tmp_path / "own").mkdir()
    with DockerRegistry.start(tmp_path / "own") as own:
        tag = f"{own.host}/lost/app"
        runner().build(context, tag=f"{tag}:1")
        lost = layer_digests(f"{tag}:1")[-3]
        assert requests.delete(f"http://{own.host}/v2/lost/app/blobs/{lost}", timeout=10).status_code == 202
        (context / "src" / "main").write_text("second\n")
        cli = runner()
        built = cli.build(context, tag=f"{tag}:2")
        assert built.timing["warnings"]
        for digest in layer_digests(f"{tag}:2"):
            assert requests.head(f"http://{own.host}/v2/lost/app/blobs/{digest}", timeout=10).status_code == 200


def test_a_fork_and_its_target(runner: Callable[[], Cli], context: Path, registry: DockerRegistry) -> None:
    tag = f"{registry.host}/scopes/app"
    runner().build(context, "--cache-scope", "main", tag=f"{tag}:main")
    (context / "requirements").write_text("of the fork\n")
    fork = ("--cache-scope", "fork-7", "--cache-read", "main")
    assert states(runner().build(context, *fork, tag=f"{tag}:fork")) == ["cached"] * 2 + ["ran"] * 3
    assert states(runner().build(context, *fork, tag=f"{tag}:fork")) == ["cached"] * 5
    main = runner().build(context, "--cache-scope", "main", tag=f"{tag}:main")
    assert states(main) == ["cached"] * 2 + ["ran"] * 3, "main never reads the fork's records"
    other = runner().build(context, "--cache-scope", "other", tag=f"{tag}:other")
    assert "cached" not in states(other)


def test_two_runners_at_once_leave_both_their_chains(
    runner: Callable[[], Cli], context: Path, tmp_path: Path, registry: DockerRegistry
) -> None:
    tag = f"{registry.host}/parallel/app"
    contexts = []
    for number in range(3):
        copy = tmp_path / f"context{number}"
        run("cp", "-a", str(context), str(copy))
        (copy / "requirements").write_text(f"of runner {number}\n")
        contexts.append(copy)
    runners = [runner() for _ in contexts]
    failures: list[BaseException] = []

    def build(number: int) -> None:
        try:
            runners[number].build(contexts[number], tag=f"{tag}:{number}")
        except BaseException as error:  # noqa: BLE001 (raised below, in the test's own thread)
            failures.append(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number, each in enumerate(contexts):
        assert states(runner().build(each, tag=f"{tag}:{number}")) == ["cached"] * 5


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "registry://127.0.0.1:1/nowhere"])
def test_a_cache_that_is_down_is_said_and_survived(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, url: str
) -> None:
    cli = runner()
    built = cli.build(context, "--cache", url, tag=f"{registry.host}/cache-down/app:1")
    assert states(built) == ["ran"] * 5
    assert any("lost with the cache" in said and "keys not looked up" in said for said in built.timing["warnings"])
    assert states(cli.build(context, "--cache", url, tag=f"{registry.host}/cache-down/app:1")) == ["cached"] * 5


def test_switched_off_it_is_silent(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/cache-off/app"
    traffic.clear()
    runner().build(context, "--cache", "off", tag=f"{tag}:1")
    assert not [path for _, path in traffic.requests() if "ci-plugins-cache" in path]
    assert states(runner().build(context, "--cache", "off", tag=f"{tag}:2")) == ["ran"] * 5


def test_prefer_rebuild_runs_instead_of_fetching(
    runner: Callable[[], Cli], context: Path, registry: DockerRegistry, traffic: RegistryTraffic
) -> None:
    tag = f"{registry.host}/rebuild/app"
    runner().build(context, tag=f"{tag}:1")
    (context / "requirements").write_text("two\n")
    traffic.clear()
    second = runner().build(context, "--prefer", "rebuild", tag=f"{tag}:2")
    assert "ran" in states(second)[0]
    large = layer_digests(f"{tag}:1")[-4]
    assert not any(large in path for method, path in traffic.requests() if method == "GET")
