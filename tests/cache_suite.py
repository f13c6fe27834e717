"""What every cache store has to do, whatever is behind it. A backend subclasses `CacheSuite` and gives a `Place`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from ci_plugins.cache.record import CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.cache.store import CacheStore
from ci_plugins.oci import Descriptor, Digest, media, sha256_digest

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
ODD_SCOPES = (
    "",
    "main",
    "feature/ünï·codé 🚀",
    "a:b:c",
    "with\nnewline\tand \x00",
    "*",
    "sha256:" + "0" * 64,
    "x" * 300,
    "branch/feature/ü x",
    "branch/" + "x" * 5000,
    "fork/stranger/app/pr/7",
    "branch/caf\\udce9",
)


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now

    def ago(self, **delta: float) -> None:
        self.now = (NOON - timedelta(**delta)).timestamp()


class Place(Protocol):
    """Where a store keeps its data. Every `open` is a store of its own on the same data."""

    clock: Clock
    #: the most records that are sensible to write in a test
    many: int
    #: how many stores keep each record
    copies: int

    def open(self) -> CacheStore: ...

    def hold(self, blobs: Sequence[bytes]) -> None:
        """Make these layers available to a store that has to have them."""

    def damage(self, record: CacheRecord) -> None: ...

    def age(self, record: CacheRecord) -> None:
        """Make it one of an older KEY_VERSION."""

    def damage_toc(self, digest: Digest, data: bytes) -> None: ...


def key(name: object) -> Digest:
    return sha256_digest(f"key {name}".encode())


def blob(name: object, size: int = 100) -> bytes:
    return f"layer {name}".encode().ljust(size, b".")


def layer_of(data: bytes, toc: bytes | None = None) -> RecordedLayer:
    return RecordedLayer(
        Descriptor(media.OCI_LAYER_GZIP, sha256_digest(data), len(data)),
        sha256_digest(b"diff " + data),
        3 * len(data),
        Descriptor("application/vnd.ci-plugins.toc.v1+zstd", sha256_digest(toc), len(toc)) if toc else None,
    )


def record(
    name: object, parent: object = None, *, scope: str = "main", layer: RecordedLayer | None = None, minute: int = 0
) -> CacheRecord:
    return CacheRecord(
        key=key(name),
        parent=None if parent is None else key(parent),
        instruction=f"RUN make {name} # ünï",
        layer=layer,
        created=f"2026-01-02T03:{minute:02}:05.000006Z",
        seconds=1.25,
        scope=scope,
        repositories=("registry.example/app",),
        inputs={"command": f"make {name}"},
    )


def image(name: str, *keys: object, scope: str = "main", minute: int = 0) -> ImageRecord:
    created = f"2026-01-02T04:{minute:02}:00Z"
    return ImageRecord(name, sha256_digest(name.encode()), tuple(map(key, keys)), created, scope)


def put(place: Place, *records: CacheRecord, images: Sequence[ImageRecord] = ()) -> None:
    """Through a store of its own, closed again."""
    with closing(place.open()) as store:
        store.put(records, images)


class CacheSuite:
    """Subclasses have a fixture `place`."""

    # -- put and lookup ---------------------------------------------------------------------------------------------

    def test_records_come_back_as_they_were(self, place: Place) -> None:
        place.hold([blob(1), blob("base")])
        base = replace(record("root"), base=(layer_of(blob("base")),))
        records = [base, record(1, "root", layer=layer_of(blob(1))), record(2, 1)]
        put(place, *records)
        with closing(place.open()) as store:
            found = store.lookup([key("unknown"), *(item.key for item in records)], ["main"])
            assert found == {item.key: item for item in records}
            assert {item.key: item for item in store.records(["main"])} == found

    def test_a_store_sees_what_it_has_put(self, place: Place) -> None:
        with closing(place.open()) as store:
            assert store.lookup([key(1)], ["main"]) == {}
            store.put([record(1)])
            assert store.lookup([key(1), key(1)], ["main", "main"]) == {key(1): record(1)}

    def test_the_first_scope_that_has_it(self, place: Place) -> None:
        put(place, record(1, scope="main"), record(1, scope="pr", minute=1), record(2, scope="main"))
        with closing(place.open()) as store:
            both = store.lookup([key(1), key(2)], ["pr", "main"])
            assert {found.scope for found in both.values()} == {"pr", "main"}
            assert both[key(1)] == record(1, scope="pr", minute=1)
            assert store.lookup([key(1)], ["main", "pr"])[key(1)].scope == "main"

    def test_a_scope_that_is_not_asked_for_is_never_seen(self, place: Place) -> None:
        put(place, record(1, scope="fork"), record(2, 1, scope="fork"), images=[image("app", 1, 2, scope="fork")])
        put(place, record(3, 1, scope="main"))
        with closing(place.open()) as store:
            assert store.lookup([key(1), key(2)], ["main", "for", "fork2", ""]) == {}
            assert [found.key for found in store.children(key(1), ["main"])] == [key(3)]
            assert store.images(["main"]) == ()
            assert [found.key for found in store.records(["main"])] == [key(3)]
            assert store.scopes() == ("fork", "main")

    def test_put_replaces(self, place: Place) -> None:
        put(place, record(1))
        place.clock.now += 10
        put(place, record(1, minute=9))
        with closing(place.open()) as store:
            assert store.lookup([key(1)], ["main"]) == {key(1): record(1, minute=9)}
            assert len(list(store.records(["main"]))) == 1

    def test_scopes_of_any_name(self, place: Place) -> None:
        put(place, *(record(number, scope=scope) for number, scope in enumerate(ODD_SCOPES)))
        with closing(place.open()) as store:
            assert store.scopes() == tuple(sorted(ODD_SCOPES))
            for number, scope in enumerate(ODD_SCOPES):
                assert [found.key for found in store.records([scope])] == [key(number)]
                assert store.lookup([key(number)], [scope])[key(number)].scope == scope

    def test_nothing_is_asked_for(self, place: Place) -> None:
        put(place, record(1))
        with closing(place.open()) as store:
            store.put([])
            store.put_tocs({})
            store.touch([], "main")
            store.remove([], "main")
            assert store.lookup([], ["main"]) == {}
            assert store.lookup([key(1)], []) == {}
            assert store.tocs([]) == {}
            assert store.images([]) == ()
            assert store.children(key(1), []) == ()
            assert list(store.records([])) == []

    def test_many_records(self, place: Place) -> None:
        records = [record(number, number - 1 if number % 50 else None) for number in range(place.many)]
        put(place, *records)
        with closing(place.open()) as store:
            assert store.lookup([item.key for item in records], ["other", "main"]) == {r.key: r for r in records}
            assert {found.key for found in store.records(["main"])} == {item.key for item in records}

    # -- the forest -------------------------------------------------------------------------------------------------

    def test_children_newest_first(self, place: Place) -> None:
        put(place, record("root"), record(1, "root", minute=1), record(2, "root", minute=3), record(3, 1, minute=9))
        put(place, record(4, "root", scope="pr", minute=2))
        with closing(place.open()) as store:
            assert [found.key for found in store.children(key("root"), ["main", "pr"])] == [key(2), key(4), key(1)]
            assert store.children(key(3), ["main"]) == ()

    def test_images(self, place: Place) -> None:
        put(place, record(1), images=[image("a", 1, minute=1), image("b", 1, minute=3), image("ünï/c", 1)])
        put(place, record(1, scope="pr"), images=[image("b", 1, scope="pr", minute=2)])
        place.clock.now += 1
        put(place, images=[image("a", 1, minute=5)])
        with closing(place.open()) as store:
            assert store.images(["main"]) == (image("a", 1, minute=5), image("b", 1, minute=3), image("ünï/c", 1))
            both = store.images(["pr", "main"])
            assert [(found.name, found.scope) for found in both] == [("a", "main"), ("b", "pr"), ("ünï/c", "main")]

    def test_remove(self, place: Place) -> None:
        put(place, record(1), record(2, 1), record(3, 1), images=[image("a", 1, 2), image("b", 1, 3)])
        put(place, record(2, 1, scope="pr"))
        with closing(place.open()) as store:
            store.remove([key(2), key("unknown")], "main")
        with closing(place.open()) as store:
            assert store.lookup([key(1), key(2), key(3)], ["main"]).keys() == {key(1), key(3)}
            assert store.lookup([key(2)], ["pr"]).keys() == {key(2)}
            assert [found.key for found in store.children(key(1), ["main"])] == [key(3)]
            assert [found.name for found in store.images(["main"])] == ["b"]
            assert {found.key for found in store.records(["main"])} == {key(1), key(3)}

    # -- prune ------------------------------------------------------------------------------------------------------

    def test_prune_by_age_keeps_what_is_stood_on(self, place: Place) -> None:
        place.clock.ago(days=40)
        put(place, record("root"), record("old", "root"), record("older", "old"), record("touched", "root"))
        place.clock.ago(days=1)
        put(place, record("new", "root"), images=[image("old", "root", "old"), image("new", "root", "new")])
        with closing(place.open()) as store:
            store.touch([key("touched"), key("unknown")], "main")
        with closing(place.open()) as store:
            pruned = store.prune(older_than=NOON - timedelta(days=30))
            assert pruned.records == 2 * place.copies
            left = {found.key for found in store.records(["main"])}
            assert left == {key("root"), key("new"), key("touched")}
            assert [found.name for found in store.images(["main"])] == ["new"]

    def test_prune_by_size_takes_the_longest_unused(self, place: Place) -> None:
        place.hold([blob(name, 1000) for name in ("a", "b", "c", "shared")])
        for days, name, parent in ((5, "a", None), (4, "b", "a"), (3, "c", None)):
            place.clock.ago(days=days)
            put(place, record(name, parent, layer=layer_of(blob(name, 1000))))
        place.clock.ago(days=2)
        # the same layer twice takes its room once
        put(place, *(record(name, layer=layer_of(blob("shared", 1000))) for name in ("d", "e")))
        with closing(place.open()) as store:
            assert store.prune(max_size=4000).records == 0
            pruned = store.prune(max_size=2500)
            # a is older than b, but b stands on it
            assert (pruned.records, pruned.bytes) == (2 * place.copies, 2000 * place.copies)
            assert {found.key for found in store.records(["main"])} == {key("c"), key("d"), key("e")}
            assert store.prune(max_size=0).bytes == 2000 * place.copies
            assert list(store.records(["main"])) == []
            assert store.scopes() == ()

    def test_prune_knows_other_scopes(self, place: Place) -> None:
        """A branch's record keeps the record of the main line it stands on, unless it has one of its own."""
        place.clock.ago(days=40)
        put(place, record("root"), record("kept", "root"), record("gone", "root"))
        place.clock.ago(days=1)
        put(place, record("branch", "kept", scope="pr"))
        put(place, record("gone", "root", scope="other"), record("leaf", "gone", scope="other"))
        with closing(place.open()) as store:
            store.prune(older_than=NOON - timedelta(days=30))
            assert {found.key for found in store.records(["main"])} == {key("root"), key("kept")}
            assert {found.key for found in store.records(["pr", "other"])} == {key("branch"), key("gone"), key("leaf")}

    # -- tables of contents -----------------------------------------------------------------------------------------

    def test_tocs(self, place: Place) -> None:
        place.hold([blob(1)])
        toc, other = b"a table of contents", b"another one" * 1000
        written, unknown = layer_of(blob(1), toc), layer_of(b"x", b"unknown")
        root = replace(record("root"), base=(layer_of(blob("base"), other),))
        with closing(place.open()) as store:
            store.put_tocs({sha256_digest(toc): toc, sha256_digest(other): other})
            assert written.toc
            assert store.tocs([(written.toc, [])]) == {sha256_digest(toc): toc}
            store.put([root, record(1, "root", layer=written)])
        with closing(place.open()) as store:
            wanted = [(layer.toc, ["registry.example/app"]) for layer in (written, *root.base, unknown) if layer.toc]
            assert store.tocs(wanted) == {sha256_digest(toc): toc, sha256_digest(other): other}
            # a size that is not the blob's is another blob
            assert store.tocs([(replace(written.toc, size=3), [])]) == {}

    def test_prune_leaves_the_tocs_of_what_stays(self, place: Place) -> None:
        place.hold([blob(1)])
        toc = b"a table of contents"
        written = layer_of(blob(1), toc)
        with closing(place.open()) as store:
            store.put_tocs({sha256_digest(toc): toc})
            store.put([record(1, layer=written)])
        place.clock.now += 7200
        with closing(place.open()) as store:
            store.prune(older_than=NOON - timedelta(days=1))
            assert written.toc
            assert store.tocs([(written.toc, [])]) == {sha256_digest(toc): toc}

    # -- others at the same time ------------------------------------------------------------------------------------

    def test_writers_in_threads_and_two_stores(self, place: Place) -> None:
        stores = [place.open(), place.open()]
        start = threading.Barrier(4)

        def write(worker: int) -> None:
            start.wait()
            for number in range(10):
                stores[worker % 2].put([record(f"{worker}.{number}"), record("same")], [image(f"{worker}", worker)])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
        for store in stores:
            store.close()
        keys = [key(f"{worker}.{number}") for worker in range(4) for number in range(10)] + [key("same")]
        with closing(place.open()) as store:
            assert store.lookup(keys, ["main"]).keys() == set(keys)
            assert {found.name for found in store.images(["main"])} == {"0", "1", "2", "3"}

    # -- damage -----------------------------------------------------------------------------------------------------

    def test_what_is_damaged_or_of_another_version_is_absent(self, place: Place) -> None:
        records = [record(number) for number in range(4)]
        put(place, *records, record(1, scope="pr"))
        place.damage(records[1])
        place.age(records[2])
        with closing(place.open()) as store:
            found = store.lookup([item.key for item in records], ["main"])
            assert found == {item.key: item for item in (records[0], records[3])}
            # the next scope has a good one
            assert store.lookup([key(1)], ["main", "pr"])[key(1)].scope == "pr"
            assert {item.key for item in store.records(["main"])} == {key(0), key(3)}
        place.clock.now += 10
        put(place, records[1])
        with closing(place.open()) as store:
            assert store.lookup([key(1)], ["main"]) == {key(1): records[1]}

    @pytest.mark.parametrize("data", [b"", b"a table of", b"A TABLE OF CONTENTS", b"another table of contents"])
    def test_a_damaged_toc_is_absent(self, place: Place, data: bytes) -> None:
        place.hold([blob(1)])
        toc = b"a table of contents"
        written = layer_of(blob(1), toc)
        with closing(place.open()) as store:
            store.put_tocs({sha256_digest(toc): toc})
            store.put([record(1, layer=written)])
        place.damage_toc(sha256_digest(toc), data)
        with closing(place.open()) as store:
            assert written.toc
            assert store.tocs([(written.toc, [])]) == {}
