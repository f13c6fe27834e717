"""The suite of all stores, on a real Redis and a real registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import requests

from ci_plugins.cache.record import CacheRecord
from ci_plugins.cache.redis import RedisStore
from ci_plugins.cache.registry import RegistryStore
from ci_plugins.cache.registry_documents import record_tag, snapshot_tag
from ci_plugins.oci import Digest, media, sha256_digest
from ci_plugins.storage.registry import RegistryClient
from tests.cache_suite import CacheSuite, Clock
from tests.servers import DockerRegistry, free_port


@contextmanager
def redis_server(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Redis with a password, and its port."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed (Debian package redis-server)"
    port = free_port()
    settings = {"port": port, "bind": "127.0.0.1", "requirepass": "secret", "save": "", "dir": directory}
    arguments = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    server = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, password="secret")
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)
        yield server, port
    finally:
        client.close()
        server.kill()
        server.wait()


class RedisPlace:
    many = 5_000
    copies = 1

    def __init__(self, port: int) -> None:
        self.clock = Clock()
        self.url = f"redis://:secret@127.0.0.1:{port}/2"
        self.redis = redis.Redis.from_url(self.url)

    def open(self) -> RedisStore:
        return RedisStore(self.url, clock=self.clock)

    def hold(self, blobs: Sequence[bytes]) -> None:
        """It records layers without having them."""

    def damage(self, record: CacheRecord) -> None:
        self._change(record, lambda text: text[:40])

    def age(self, record: CacheRecord) -> None:
        self._change(record, lambda text: b"0" + text.lstrip(b"0123456789"))

    def _change(self, record: CacheRecord, change) -> None:  # type: ignore[no-untyped-def]
        name = f"ci-plugins:cache:record:{record.key}:{record.scope}"
        text = self.redis.get(name)
        assert text
        self.redis.set(name, change(text))

    def damage_toc(self, digest: Digest, data: bytes) -> None:
        assert self.redis.set(f"ci-plugins:cache:toc:{digest}", data, xx=True)


class RegistryPlace:
    """One repository of a registry that has other things in it too."""

    many = 700
    copies = 1
    repository = "team/app"

    def __init__(self, registry: DockerRegistry) -> None:
        self.registry, self.clock = registry, Clock()

    def open(self) -> RegistryStore:
        client = RegistryClient(self.registry.host)
        return RegistryStore(client, self.repository, touch_every=0, clock=self.clock)

    def url(self, rest: str) -> str:
        return f"http://{self.registry.host}/v2/{self.repository}/{rest}"

    def hold(self, blobs: Sequence[bytes]) -> None:
        for data in blobs:
            location = requests.post(self.url("blobs/uploads/")).headers["Location"]
            requests.put(f"{location}&digest={sha256_digest(data)}", data=data).raise_for_status()

    def manifest(self, tag: str) -> dict:  # type: ignore[type-arg]
        answer = requests.get(self.url(f"manifests/{tag}"), headers={"Accept": media.OCI_MANIFEST})
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    def put_manifest(self, tag: str, value: object) -> None:
        headers = {"Content-Type": media.OCI_MANIFEST}
        data = json.dumps(value).encode()
        requests.put(self.url(f"manifests/{tag}"), data=data, headers=headers).raise_for_status()

    def damage(self, record: CacheRecord) -> None:
        self._change(record, "record", lambda text: text[:40])

    def age(self, record: CacheRecord) -> None:
        self._change(record, "version", lambda _: "0")

    def _change(self, record: CacheRecord, name: str, change) -> None:  # type: ignore[no-untyped-def]
        """In the snapshot and in the artifact."""
        for tag in (snapshot_tag(record.scope), record_tag(record.scope, record.key)):
            value = self.manifest(tag)
            for notes in (value["annotations"], *(layer.get("annotations") or {} for layer in value["layers"])):
                if notes.get("vnd.ci-plugins.cache.key") == record.key:
                    notes[f"vnd.ci-plugins.cache.{name}"] = change(notes[f"vnd.ci-plugins.cache.{name}"])
            self.put_manifest(tag, value)

    def damage_toc(self, digest: Digest, data: bytes) -> None:
        path = self.registry.blob_path(digest)
        assert path.exists()
        path.write_bytes(data)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (_, port):
        yield port


class TestRedis(CacheSuite):
    @pytest.fixture
    def place(self, redis_port: int) -> RedisPlace:
        place = RedisPlace(redis_port)
        place.redis.flushall()
        return place


class TestRegistry(CacheSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[RegistryPlace]:
        with DockerRegistry.start(tmp_path / "registry") as registry:
            place = RegistryPlace(registry)
            place.hold([b"{}"])
            place.put_manifest(
                "latest", {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": _EMPTY, "layers": []}
            )
            yield place
            assert "latest" in registry.tags(place.repository), "what is not the cache's has to stay"


class TestRegistryWithoutDelete(CacheSuite):
    """As most are."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[RegistryPlace]:
        with DockerRegistry.start(tmp_path / "registry", delete=False) as registry:
            yield RegistryPlace(registry)


_EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256_digest(b"{}"), "size": 2}


def test_opening_imports_only_what_the_store_needs(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from ci_plugins.cache.open import open_chain, open_store\n"
        "from pathlib import Path\n"
        "open_chain(Path(sys.argv[1]), open_store('memory:', None), print).lookup([], ['main'])\n"
        "print(*sorted({'redis', 'requests', 'urllib3', 'tenacity', 'ci_plugins.storage.registry'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "index.sqlite")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
