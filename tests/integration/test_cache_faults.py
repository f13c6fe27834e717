"""A cache that is down, slow, or lies: told once, counted, and the build goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.redis import RedisStore
from ci_plugins.cache.registry import RegistryStore
from ci_plugins.cache.store import CacheStore, CacheUnavailable
from ci_plugins.oci import sha256_digest
from ci_plugins.storage.registry import RegistryClient
from tests.cache_suite import blob, image, key, layer_of, put, record
from tests.integration.test_cache_stores import RedisPlace, RegistryPlace, redis_server
from tests.servers import DockerRegistry, free_port


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def failing_server(status: int) -> Iterator[int]:
    """Answers everything with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 (the names http.server calls)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_everything(store: CacheStore) -> None:
    """What a build does with its index, and people too."""
    toc = layer_of(b"x", b"toc").toc
    assert toc
    store.lookup([key(1), key(2)], ["pr", "main"])
    store.tocs([(toc, ["registry.example/app"])])
    store.put_tocs({sha256_digest(b"toc"): b"toc"})
    store.put([record(1)], [image("app", 1)])
    store.touch([key(1)], "main")
    store.children(key(1), ["main"])
    store.images(["main"])
    list(store.records(["main"]))
    store.scopes()
    store.remove([key(1)], "main")
    store.prune(max_size=0)
    store.close()


def goes_on_without(shared: CacheStore, seconds: float) -> ChainedStore:
    """Use a chain whose shared store is broken: told once, counted, quick."""
    warnings: list[str] = []
    chain = ChainedStore(MemoryStore(), shared, warnings.append)
    began = time.monotonic()
    use_everything(chain)
    assert time.monotonic() - began < seconds
    assert len(warnings) == 1, warnings
    assert "the build goes on without it" in warnings[0]
    (losses,) = chain.losses
    assert (losses.keys, losses.records) == (2, 1)
    return chain


REDIS = {
    "down": lambda port: RedisStore(f"redis://127.0.0.1:{port}"),
    "down, by its name": lambda port: RedisStore(f"redis://localhost:{port}/1"),
}


@pytest.mark.parametrize("make", REDIS.values(), ids=REDIS)
def test_redis_is_down(make: Callable[[int], CacheStore]) -> None:
    goes_on_without(make(free_port()), seconds=1.0)


def test_redis_hangs() -> None:
    with silent_server() as port:
        goes_on_without(RedisStore(f"redis://127.0.0.1:{port}"), seconds=3.5)
        goes_on_without(RedisStore(f"redis://127.0.0.1:{port}", read_timeout=0.2), seconds=0.6)


def test_redis_cannot_be_reached() -> None:
    # 192.0.2.0/24 is nobody's (RFC 5737): packets get lost, or are refused at once
    goes_on_without(RedisStore("redis://192.0.2.1:6379"), seconds=2.0)


def test_redis_wants_another_password(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (_, port):
        chain = goes_on_without(RedisStore(f"redis://:hunter2@127.0.0.1:{port}"), seconds=1.0)
        assert "hunter2" not in str(chain.losses)


def test_redis_is_something_else() -> None:
    with failing_server(400) as port:
        goes_on_without(RedisStore(f"redis://127.0.0.1:{port}"), seconds=3.5)


def test_redis_is_killed_in_the_middle(tmp_path: Path) -> None:
    warnings: list[str] = []
    with redis_server(tmp_path) as (server, port):
        place = RedisPlace(port)
        put(place, record(1))
        chain = ChainedStore(MemoryStore(), place.open(), warnings.append)
        assert chain.lookup([key(1)], ["main"]).keys() == {key(1)}
        server.kill()
        server.wait()
        chain.put([record(2)])
        assert chain.lookup([key(1), key(2), key(3)], ["main"]).keys() == {key(1), key(2)}
        chain.close()
    assert len(warnings) == 1
    (losses,) = chain.losses
    assert (losses.records, losses.keys) == (1, 1)


def test_redis_closes_a_connection_nobody_used(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (_, port):
        place = RedisPlace(port)
        with closing(place.open()) as store:
            store.put([record(1)])
            place.redis.client_kill_filter(_type="normal", skipme=True)
            assert store.lookup([key(1)], ["main"]).keys() == {key(1)}


def test_redis_holds_something_else_under_our_names(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (_, port):
        place = RedisPlace(port)
        put(place, record(1), record(2))
        place.redis.delete(f"ci-plugins:cache:record:{key(1)}:main")
        place.redis.lpush(f"ci-plugins:cache:record:{key(1)}:main", "x")
        place.redis.set(f"ci-plugins:cache:record:{key(2)}:main", b"\xff\xfe")
        with closing(place.open()) as store:
            assert store.lookup([key(1), key(2)], ["main"]) == {}
        place.redis.set("ci-plugins:cache:scopes", "x")
        with closing(place.open()) as store, pytest.raises(CacheUnavailable, match=r"redis://127\.0\.0\.1"):
            store.put([record(3)])


def test_redis_evicts(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (_, port):
        place = RedisPlace(port)
        put(place, record(1), record(2, 1), record(3, 1))
        place.redis.delete(f"ci-plugins:cache:record:{key(2)}:main")
        with closing(place.open()) as store:
            assert [one.key for one in store.children(key(1), ["main"])] == [key(3)]
            assert len(list(store.records(["main"]))) == 2
            store.prune(max_size=0)
            store.put([record(2, 1)])


def test_a_lookup_in_redis_is_one_round_trip(tmp_path: Path) -> None:
    with redis_server(tmp_path) as (_, port):
        place = RedisPlace(port)
        put(place, *(record(number) for number in range(300)))
        place.redis.config_resetstat()
        with closing(place.open()) as store:
            assert len(store.lookup([key(number) for number in range(400)], ["pr", "main", "other"])) == 300
        calls = place.redis.info("commandstats")
        assert calls["cmdstat_mget"]["calls"] == 1
        assert set(calls) <= {"cmdstat_mget", "cmdstat_auth", "cmdstat_select", "cmdstat_config|resetstat"}


def test_a_prune_in_redis_leaves_what_is_used_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server(tmp_path) as (_, port):
        place = RedisPlace(port)
        put(place, record(1), record(2))
        store = place.open()
        remove = store._remove_unused

        def with_another_build(nodes: object) -> None:
            place.clock.now += 1
            put(place, record(1))
            remove(nodes)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "_remove_unused", with_another_build)
        place.clock.now += 10
        store.prune(older_than=datetime.fromtimestamp(place.clock.now, UTC))
        assert store.lookup([key(1), key(2)], ["main"]).keys() == {key(1)}
        store.close()


# -- registries --------------------------------------------------------------------------------------------------------


def test_a_registry_is_down() -> None:
    goes_on_without(RegistryStore(RegistryClient(f"127.0.0.1:{free_port()}"), "app"), seconds=3.0)


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403, 400])
def test_a_registry_refuses(status: int) -> None:
    with failing_server(status) as port:
        goes_on_without(RegistryStore(RegistryClient(f"127.0.0.1:{port}"), "app"), seconds=3.0)


def test_a_registry_hangs() -> None:
    with silent_server() as port:
        goes_on_without(RegistryStore(RegistryClient(f"127.0.0.1:{port}"), "app", patience=0.5), seconds=1.5)


def test_a_registry_is_killed_in_the_middle(tmp_path: Path) -> None:
    warnings: list[str] = []
    with DockerRegistry.start(tmp_path / "registry") as registry:
        place = RegistryPlace(registry)
        put(place, record(1))
        chain = ChainedStore(MemoryStore(), place.open(), warnings.append)
        assert chain.lookup([key(1)], ["main"]).keys() == {key(1)}
        registry.stop()
        chain.put([record(2)])
        chain.close()
    assert len(warnings) == 1
    assert chain.losses[0].records == 1


def test_a_registry_whose_files_are_damaged(tmp_path: Path) -> None:
    """Manifests of the cache are cut short on its disk: builds know nothing, and then everything again."""
    with DockerRegistry.start(tmp_path / "registry") as registry:
        place = RegistryPlace(registry)
        place.hold([blob(1)])
        put(place, record(1, layer=layer_of(blob(1))))
        for path in (registry.root / "docker/registry/v2/blobs").rglob("data"):
            if b"vnd.ci-plugins.cache" in path.read_bytes():
                path.write_bytes(path.read_bytes()[:200])
        place.clock.now += 1
        chain = ChainedStore(MemoryStore(), place.open(), pytest.fail)
        assert chain.lookup([key(1)], ["main"]) == {}
        chain.put([record(1, layer=layer_of(blob(1)))])
        chain.close()
        with closing(place.open()) as store:
            assert store.lookup([key(1)], ["main"]).keys() == {key(1)}


def test_nothing_is_in_the_registry_yet(tmp_path: Path) -> None:
    warnings: list[str] = []
    with DockerRegistry.start(tmp_path / "registry") as registry:
        chain = ChainedStore(MemoryStore(), RegistryPlace(registry).open(), warnings.append)
        use_everything(chain)
    assert not warnings
    assert not chain.losses


def test_only_reading_is_allowed(tmp_path: Path) -> None:
    """A fork's build: what it cannot write is counted, what it can read it reads."""
    with DockerRegistry.start(tmp_path / "registry", htpasswd=("robot", "secret")) as registry:
        warnings: list[str] = []
        chain = ChainedStore(MemoryStore(), RegistryStore(RegistryClient(registry.host), "app"), warnings.append)
        assert chain.lookup([key(1)], ["main"]) == {}
        chain.close()
        assert len(warnings) == 1
        assert "refuses access" in warnings[0]
