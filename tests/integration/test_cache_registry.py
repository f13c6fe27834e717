"""What only a registry's store does: few requests, blobs that stay alive, snapshots many write at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from ci_plugins.cache.registry import RegistryStore
from ci_plugins.cache.registry_documents import MOST_RECORDS, record_tag, snapshot_tag
from ci_plugins.cache.store import RecordsLeftOut
from ci_plugins.oci import media, sha256_digest
from ci_plugins.storage.registry import RegistryClient, RegistryDestination
from tests.cache_suite import blob, image, key, layer_of, put, record
from tests.integration.test_cache_stores import RegistryPlace
from tests.servers import DockerRegistry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry.start(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def place(registry: DockerRegistry) -> RegistryPlace:
    return RegistryPlace(registry)


class CountingClient(RegistryClient):
    """Notes every request, and may do something before one."""

    def __init__(self, registry: str, **settings: Any) -> None:
        super().__init__(registry, **settings)
        self.seen: list[str] = []

    def attempt(self, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        self.seen.append(f"{method} {url.partition('/v2/')[2]}")
        return super().attempt(method, url, *arguments, **named)


def test_a_lookup_is_one_request_a_scope(place: RegistryPlace) -> None:
    put(place, *(record(number) for number in range(30)), record(31, scope="pr"))
    client = CountingClient(place.registry.host)
    store = RegistryStore(client, place.repository)
    keys = [key(number) for number in range(40)]
    assert len(store.lookup(keys, ["pr", "main", "unknown"])) == 31
    assert sorted(client.seen) == sorted(
        f"GET team/app/manifests/{snapshot_tag(scope)}" for scope in ("pr", "main", "unknown")
    )
    # kept in memory: what is missing there is not asked for either
    assert len(store.lookup([*keys, key("new")], ["pr", "main", "unknown"])) == 31
    assert len(client.seen) == 3


def test_putting_what_is_there_writes_no_snapshot(place: RegistryPlace) -> None:
    place.hold([blob(1)])
    client = CountingClient(place.registry.host)
    store = RegistryStore(client, place.repository, clock=place.clock)
    store.put([record(1, layer=layer_of(blob(1)))])
    client.seen.clear()
    store.touch([key(1)], "main")
    assert client.seen == []
    store.put([record(2)])
    store.close()
    # the record; the snapshot read, written, in the end read again; nothing that was seen before
    kinds = [line.partition(" ")[0] for line in client.seen]
    assert kinds == ["PUT", "GET", "PUT", "GET"]


def test_what_a_push_has_seen_is_not_asked_for_again(place: RegistryPlace) -> None:
    """The client is that of the push, and a snapshot that was read has what every record needs."""
    place.hold([blob(1)])
    put(place, record(0))
    client = CountingClient(place.registry.host)
    assert RegistryDestination(client, place.repository).has_blob(layer_of(blob(1)).descriptor)
    client.seen.clear()
    with closing(RegistryStore(client, place.repository)) as store:
        assert store.lookup([key(0)], ["main"])
        store.put([record(1, 0, layer=layer_of(blob(1)))], [image("app", 0, 1)])
    assert [line.partition(" ")[0] for line in client.seen] == ["GET", "PUT", "PUT", "GET", "PUT", "GET"]


def test_a_table_of_contents_goes_ahead_of_its_record(place: RegistryPlace) -> None:
    place.hold([blob(1)])
    layer = layer_of(blob(1), b"its toc")
    assert layer.toc
    with closing(place.open()) as store:
        store.put_tocs({layer.toc.digest: b"its toc"})
        until = time.monotonic() + 10
        while requests.head(place.url(f"blobs/{layer.toc.digest}")).status_code != 200:
            assert time.monotonic() < until, "nothing is sent before there is a record"
            time.sleep(0.01)
        requests.delete(place.url(f"blobs/{layer.toc.digest}")).raise_for_status()  # as garbage collection would
        store.put([record(1, layer=layer)])
    with closing(place.open()) as store:
        assert store.tocs([(layer.toc, [])]) == {layer.toc.digest: b"its toc"}


def test_blobs_are_taken_over_from_other_repositories(registry: DockerRegistry, place: RegistryPlace) -> None:
    other = RegistryPlace(registry)
    other.repository = "team/other"
    other.hold([blob("mounted"), b"its toc"])
    place.hold([blob("here")])
    here, mounted = record("here", layer=layer_of(blob("here"))), layer_of(blob("mounted"), b"its toc")
    away = replace(record("away", layer=mounted), repositories=("elsewhere.example/x", f"{registry.host}/team/other"))
    nowhere = replace(record("nowhere", layer=layer_of(blob("nowhere"))), repositories=(f"{registry.host}/team/none",))
    with closing(place.open()) as store:
        with pytest.raises(
            RecordsLeftOut, match=r"1 of the records are not in registry://.*RUN make nowhere"
        ) as caught:
            store.put([here, nowhere, away], [image("app", "here", "away")])
        assert caught.value.count == 1
    with closing(place.open()) as store:
        found = store.lookup([key("here"), key("nowhere"), key("away")], ["main"])
        assert found.keys() == {key("here"), key("away")}
        assert mounted.toc
        assert store.tocs([(mounted.toc, [])]) == {mounted.toc.digest: b"its toc"}
        assert [one.name for one in store.images(["main"])] == ["app"]
    assert requests.head(place.url(f"blobs/{mounted.descriptor.digest}")).status_code == 200


def test_tocs_come_from_where_they_are(registry: DockerRegistry, place: RegistryPlace) -> None:
    other = RegistryPlace(registry)
    other.repository = "team/other"
    other.hold([b"a toc"])
    toc = layer_of(blob(1), b"a toc").toc
    assert toc
    with closing(place.open()) as store:
        assert store.tocs([(toc, [])]) == {}
        assert store.tocs([(toc, ["127.0.0.1:1/x", f"{registry.host}/team/other"])]) == {toc.digest: b"a toc"}
        other_name = f"{registry.localhost}/team/other"
        assert store.tocs([(toc, [other_name])]) == {}, "there is no client for that registry"
    reach = RegistryStore(RegistryClient(registry.host), place.repository, RegistryClient)
    assert reach.tocs([(toc, [other_name])]) == {toc.digest: b"a toc"}


def test_records_keep_their_blobs_from_garbage_collection(tmp_path: Path) -> None:
    tocs = {sha256_digest(data): data for data in (b"toc of 1", b"toc of the base")}
    with DockerRegistry.start(tmp_path / "registry") as registry:
        place = RegistryPlace(registry)
        place.hold([blob(1), blob(2), blob("nobody's")])
        base = replace(record("root"), base=(layer_of(blob("base"), b"toc of the base"),))
        with closing(place.open()) as store:
            store.put_tocs(tocs)
            store.put([base, record(1, "root", layer=layer_of(blob(1), b"toc of 1"))])
            store.put([record(2, 1, layer=layer_of(blob(2)))])
        with closing(place.open()) as store:
            store.remove([key(2)], "main")
    subprocess.run(
        ["docker-registry", "garbage-collect", "--delete-untagged", str(tmp_path / "registry/config.yml")],
        check=True,
        capture_output=True,
    )
    with DockerRegistry.start(tmp_path / "registry") as registry:
        place = RegistryPlace(registry)
        for data, kept in ((blob(1), True), (blob(2), False), (blob("nobody's"), False)):
            assert registry.blob_path(sha256_digest(data)).exists() == kept
        with closing(place.open()) as store:
            assert store.lookup([key("root"), key(1), key(2)], ["main"]).keys() == {key("root"), key(1)}
            wanted = [(layer.toc, []) for layer in (layer_of(blob(1), b"toc of 1"), *base.base) if layer.toc]
            assert store.tocs(wanted) == tocs
            store.put([record(3, 1)])


def test_what_a_snapshot_has_no_room_for_is_found_by_its_own_tag(place: RegistryPlace) -> None:
    put(place, record("oldest"))
    place.clock.now += 60
    put(place, *(record(number) for number in range(MOST_RECORDS)))
    client = CountingClient(place.registry.host)
    store = RegistryStore(client, place.repository)
    assert store.lookup([key("oldest"), key(3)], ["main"]).keys() == {key("oldest"), key(3)}
    assert client.seen == [
        f"GET team/app/manifests/{snapshot_tag('main')}",
        f"GET team/app/manifests/{record_tag('main', key('oldest'))}",
    ]


def test_a_large_snapshot_is_cut_by_its_size(place: RegistryPlace) -> None:
    records = [replace(record(number), inputs={"command": f"{number}" * 20_000}) for number in range(10, 80)]
    put(place, *records)
    assert len(json.dumps(place.manifest(snapshot_tag("main")))) < 1.1 * (1 << 20)
    with closing(place.open()) as store:
        assert store.lookup([item.key for item in records], ["main"]) == {item.key: item for item in records}


@pytest.mark.parametrize("harm", ["gone", "foreign", "garbage"])
def test_a_snapshot_that_cannot_be_read_is_made_again(place: RegistryPlace, harm: str) -> None:
    put(place, record(1), record(2), record(3, scope="pr"))
    tag = snapshot_tag("main")
    if harm == "gone":
        answer = requests.get(place.url(f"manifests/{tag}"), headers={"Accept": media.OCI_MANIFEST})
        digest = answer.headers["Docker-Content-Digest"]
        requests.delete(place.url(f"manifests/{digest}")).raise_for_status()
    elif harm == "foreign":
        value = place.manifest(tag)
        value["artifactType"] = "application/vnd.somebody.else"
        place.put_manifest(tag, value)
    else:
        value = place.manifest(tag)
        value["annotations"]["vnd.ci-plugins.cache.scope"] = 7
        for layer in value["layers"]:
            layer["annotations"] = {"vnd.ci-plugins.cache.key": "sha256:zz"}
        value["annotations"] = {name: str(text) for name, text in value["annotations"].items()}
        place.put_manifest(tag, value)
    with closing(place.open()) as store:
        found = store.lookup([key(1), key(2), key(3)], ["main", "pr"])
        # one that is gone says that there is nothing; the next put finds out
        assert found.keys() == ({key(3)} if harm == "gone" else {key(1), key(2), key(3)})
        assert {one.key for one in store.records(["main"])} == {key(1), key(2)}
        assert store.scopes() == ("main", "pr")
        store.put([record(4)])
    with closing(place.open()) as store:
        assert store.lookup([key(number) for number in (1, 2, 4)], ["main"]).keys() == {key(1), key(2), key(4)}


def test_a_record_whose_blob_is_gone_does_not_stop_the_others(registry: DockerRegistry, place: RegistryPlace) -> None:
    place.hold([blob(1), blob(2)])
    put(place, record(1, layer=layer_of(blob(1))), record(2, layer=layer_of(blob(2))))
    requests.delete(place.url(f"blobs/{sha256_digest(blob(1))}")).raise_for_status()
    with closing(place.open()) as store:
        store.put([record(3)])
    with closing(place.open()) as store:
        assert store.lookup([key(1), key(2), key(3)], ["main"]).keys() == {key(2), key(3)}
        with pytest.raises(RecordsLeftOut):
            store.put([record(1, layer=layer_of(blob(1)))])


def test_two_processes_write_one_snapshot(place: RegistryPlace) -> None:
    program = (
        "import sys\n"
        "from tests.cache_suite import image, record\n"
        "from ci_plugins.cache.registry import RegistryStore\n"
        "from ci_plugins.storage.registry import RegistryClient\n"
        "store = RegistryStore(RegistryClient(sys.argv[1]), 'team/app')\n"
        "for number in range(15):\n"
        "    store.put([record(f'{sys.argv[2]}.{number}')])\n"
        "store.close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, place.registry.host, name], cwd=Path(__file__).parents[2])
        for name in ("a", "b", "c")
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    keys = [key(f"{name}.{number}") for name in "abc" for number in range(15)]
    with closing(place.open()) as store:
        assert store.lookup(keys, ["main"]).keys() == set(keys)


def test_a_writer_who_is_overwritten_at_the_worst_moment(place: RegistryPlace) -> None:
    """Another writer reads before us and writes after us: our last look finds out."""
    slow = CountingClient(place.registry.host)
    reading, written = threading.Event(), threading.Event()
    attempt = slow.attempt

    def held_back(method: str, url: str, *arguments: Any, **named: Any) -> Any:
        if method == "PUT" and url.endswith(snapshot_tag("main")) and not written.is_set():
            reading.set()
            assert written.wait(10)
        return attempt(method, url, *arguments, **named)

    slow.attempt = held_back  # type: ignore[method-assign]
    theirs = RegistryStore(slow, place.repository)
    thread = threading.Thread(target=theirs.put, args=([record("theirs")],))
    thread.start()
    assert reading.wait(10)
    ours = place.open()
    ours.put([record("ours")])
    written.set()
    thread.join()
    with closing(place.open()) as store:
        assert store.lookup([key("ours")], ["main"]) == {}, "the test should bring about what it is about"
    ours.close()
    theirs.close()
    with closing(place.open()) as store:
        assert store.lookup([key("ours"), key("theirs")], ["main"]).keys() == {key("ours"), key("theirs")}


def test_a_touch_is_written_once_a_day(place: RegistryPlace) -> None:
    client = CountingClient(place.registry.host)
    with closing(RegistryStore(client, place.repository, clock=place.clock)) as store:
        store.put([record(1), record(2)])
        writes = sum(line.startswith("PUT") for line in client.seen)
        place.clock.now += 3600
        store.touch([key(1)], "main")
        assert sum(line.startswith("PUT") for line in client.seen) == writes
        place.clock.now += 86400
        store.touch([key(1), key(2)], "main")
        assert sum(line.startswith("PUT") for line in client.seen) == writes + 1
