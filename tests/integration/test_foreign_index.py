"""An index of images built elsewhere in each store that runners can share: what it says, and what asking it costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from ci_plugins.cache.registry_documents import snapshot_tag
from ci_plugins.foreign.known import document_scope
from ci_plugins.oci import Digest
from tests.faults import FaultProxy
from tests.harness import Cli
from tests.integration.test_cache_stores import redis_server
from tests.integration.test_serve_process import Process
from tests.servers import DockerRegistry

STEPS = 12
#: commands of a Redis that somebody waits for
_READS = (b"MGET", b"GET", b"SMEMBERS", b"ZRANGE", b"ZCARD", b"HGETALL")


@dataclass(frozen=True)
class Store:
    """`questions` tells what was asked of it so far, and how often; None where they cannot be seen."""

    url: str
    questions: Callable[[], Counter[str]] | None


@contextmanager
def docker_registry(folder: Path) -> Iterator[Store]:
    with DockerRegistry.start(folder) as registry, watched(registry.port) as store:
        yield store


@contextmanager
def own_registry(folder: Path) -> Iterator[Store]:
    folder.mkdir()
    process = Process(folder / "root", folder / "log")
    try:
        with watched(int(process.address.rpartition(":")[2])) as store:
            yield store
    finally:
        process.end()


@contextmanager
def watched(port: int) -> Iterator[Store]:
    """A registry whose requests are counted. Only those to the cache's repository come by."""
    with FaultProxy.start(port) as proxy:
        yield Store(
            f"registry://{proxy.host}/ci/index",
            lambda: Counter(one.path.rpartition("/")[2] for one in proxy.seen("GET", "/v2/ci/index/")),
        )


@contextmanager
def redis_store(folder: Path) -> Iterator[Store]:
    folder.mkdir()
    with redis_server(folder) as (_, port):
        url = f"redis://:secret@127.0.0.1:{port}/1"
        client = redis.Redis.from_url(url)
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 100_000)

        def questions() -> Counter[str]:
            seen = [entry["command"].split(b" ", 1) for entry in client.slowlog_get(100_000)]
            return Counter(
                f"{name.decode()}{' foreign' if b'foreign:' in rest[0] else ''}"
                for name, *rest in seen
                if name in _READS
            )

        yield Store(url, questions)


@contextmanager
def sqlite_store(folder: Path) -> Iterator[Store]:
    folder.mkdir()
    yield Store(f"sqlite:{folder}/index.sqlite", None)


STORES: dict[str, Callable[[Path], Any]] = {
    "registry": docker_registry,
    "serve": own_registry,
    "redis": redis_store,
    "sqlite": sqlite_store,
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with STORES[request.param](tmp_path / "store") as running:
        yield running


@pytest.fixture(scope="module")
def context(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twelve")
    runs = "".join(f"RUN head -c 8 /dev/urandom > /{n}\n" for n in range(STEPS))
    (folder / "Dockerfile").write_text(f"FROM {base_image}\n{runs}COPY a /a\n")
    (folder / "a").write_text("a")
    return folder


@pytest.fixture(scope="module")
def elsewhere(context: Path, registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of that Dockerfile by a builder whose cache nobody here has. It is one of ours for once: it is quick,
    and its history reads like BuildKit's."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "home").mkdir()
    repository = f"{registry.host}/foreign-index/app"
    Cli(folder / "home", folder / "state").build(context, "--cache", "off", tag=f"{repository}:1")
    return repository


def index(cli: Cli, repository: str, store: Store) -> dict[str, Any]:
    done = cli("cache", "index", repository, "--state", cli.state, "--json", "--cache", store.url)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def build(cli: Cli, context: Path, registry: DockerRegistry, store: Store, name: str, *arguments: str) -> list[str]:
    """States of all steps. `name` is the tag and the scope."""
    where = ("--cache", store.url, "--cache-scope", name)
    built = cli.build(context, *where, *arguments, tag=f"{registry.host}/foreign-index/ours:{name}")
    assert built.timing["warnings"] == []
    return [step["state"] for step in built.timing["steps"]]


def document_tags(context: Path, registry: DockerRegistry) -> set[str]:
    """What a registry is asked for, for the documents of chains on the base image."""
    repository = (context / "Dockerfile").read_text().split()[1].partition("/")[2].partition(":")[0]
    link = registry.root / f"docker/registry/v2/repositories/{repository}/_manifests/tags/1/current/link"
    manifest = json.loads(registry.blob_path(link.read_text()).read_bytes())
    config = json.loads(registry.blob_path(manifest["config"]["digest"]).read_bytes())
    lowest = Digest(config["rootfs"]["diff_ids"][0])
    return {snapshot_tag(document_scope(lowest, Digest(f"sha256:{digit:x}"))) for digit in range(16)}


def test_an_empty_runner_takes_twelve_runs_with_one_question(
    store: Store, context: Path, elsewhere: str, registry: DockerRegistry, runner: Callable[[], Cli]
) -> None:
    indexed = index(runner(), elsewhere, store)
    assert (indexed["images"], indexed["left_out"], indexed["removed"]) == (1, [], 0)
    # those of the base image that lead to a RUN, and the twelve
    assert indexed["layers"] > STEPS
    before = store.questions() if store.questions else Counter()

    assert build(runner(), context, registry, store, "trusting", "--trust-foreign") == ["cached"] * STEPS + ["ran"]

    if store.questions:
        documents = document_tags(context, registry)
        new = (store.questions() - before).items()
        foreign = [count for what, count in new if "foreign" in what or what[: len(min(documents))] in documents]
        assert foreign == [1]
    assert build(runner(), context, registry, store, "distrustful") == ["ran"] * (STEPS + 1)


def test_an_index_of_other_images_is_one_question_more_at_most(
    store: Store, context: Path, elsewhere: str, registry: DockerRegistry, runner: Callable[[], Cli], tmp_path: Path
) -> None:
    index(runner(), elsewhere, store)
    other = tmp_path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text((context / "Dockerfile").read_text().replace("urandom", "zero"))
    (other / "a").write_text("a")

    def questions(name: str, *arguments: str) -> Counter[str]:
        before = store.questions() if store.questions else Counter()
        states.append(build(runner(), other, registry, store, name, *arguments))
        return store.questions() - before if store.questions else Counter()

    states: list[list[str]] = []
    # nothing was ever in these scopes, then everything is
    without = questions("a")
    trusting = questions("b", "--trust-foreign")
    without_again = questions("a")
    trusting_again = questions("b", "--trust-foreign")
    assert states == [["ran"] * (STEPS + 1)] * 2 + [["cached"] * (STEPS + 1)] * 2
    if store.questions:
        assert (trusting.total() - without.total(), trusting_again.total() - without_again.total()) == (1, 0)


def test_indexing_again_asks_one_thing_a_tag(
    store: Store, elsewhere: str, registry: DockerRegistry, runner: Callable[[], Cli]
) -> None:
    with FaultProxy.start(registry.port) as proxy:
        repository = f"{proxy.host}/{elsewhere.partition('/')[2]}"
        first = index(runner(), repository, store)
        proxy.forget()
        again = index(runner(), repository, store)
        assert (again["tags"], again["unchanged"], again["images"], again["layers"]) == (1, 1, 0, first["layers"])
        seen = [(one.method, one.path.partition("?")[0].rpartition("/")[2]) for one in proxy.requests]
        assert [one for one in seen if one[1] not in ("", "list")] == [("HEAD", "1")]


def test_a_store_that_does_not_answer_is_said(elsewhere: str, cli: Cli) -> None:
    place = ("--state", cli.state, "--cache", "registry://127.0.0.1:1/ci/index")
    done = cli("cache", "index", elsewhere, *place, check=False)
    assert done.returncode == 61
    assert "error: the index cannot be written: the cache registry://127.0.0.1:1/ci/index" in done.stderr
    assert "next: Check what --cache names" in done.stderr
