"""Two stores as one: what one lacks comes from the other, and a store that fails fails alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ci_plugins.cache.chained import ChainedStore, Losses
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.open import open_chain
from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.sqlite import SqliteStore
from ci_plugins.cache.store import CacheDamaged, CacheUnavailable, RecordsLeftOut
from ci_plugins.oci import Digest, sha256_digest
from tests.cache_suite import CacheSuite, Clock, image, key, layer_of, record


class Counting(MemoryStore):
    """Notes what it is asked, and fails where it is told to."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.asked: list[object] = []
        self.errors = list(errors)

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Mapping[Digest, CacheRecord]:
        self._note(list(keys))
        return super().lookup(keys, scopes)

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        super().put(records, images)
        self._note([item.key for item in records])

    def _note(self, what: object) -> None:
        self.asked.append(what)
        if self.errors:
            raise self.errors.pop(0)


class ChainPlace:
    """The suite sees two stores as one."""

    many = 2_000
    copies = 2

    def __init__(self) -> None:
        self.clock = Clock()
        self.local, self.shared = MemoryStore(self.clock), MemoryStore(self.clock)

    def open(self) -> ChainedStore:
        return ChainedStore(self.local, self.shared, pytest.fail)

    def hold(self, blobs: Sequence[bytes]) -> None:
        """They record layers without having them."""

    def damage(self, record: CacheRecord) -> None:
        for store in (self.local, self.shared):
            store.remove([record.key], record.scope)

    age = damage

    def damage_toc(self, digest: Digest, data: bytes) -> None:
        for store in (self.local, self.shared):
            store.put_tocs({digest: data})


class TestChained(CacheSuite):
    @pytest.fixture
    def place(self) -> ChainPlace:
        return ChainPlace()


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_the_shared_store_is_asked_once_for_what_the_local_one_lacks(warnings: list[str]) -> None:
    local, shared = Counting(), Counting()
    local.put([record(1)])
    shared.put([record(1, minute=7), record(2, scope="main"), record(3, scope="pr")])
    chain = ChainedStore(local, shared, warnings.append)
    shared.asked.clear()
    found = chain.lookup([key(1), key(2), key(3), key(4), key(2)], ["pr", "main"])
    assert found == {key(1): record(1), key(2): record(2), key(3): record(3, scope="pr")}
    assert shared.asked == [[key(2), key(3), key(4)]]
    # written through, each in its scope
    assert local.lookup([key(2), key(3)], ["main"]) == {key(2): record(2)}
    assert local.lookup([key(3)], ["pr"]) == {key(3): record(3, scope="pr")}
    chain.lookup([key(1), key(2), key(3)], ["pr", "main"])
    assert len(shared.asked) == 1
    assert not warnings
    assert not chain.losses


def test_tocs_are_written_through(warnings: list[str]) -> None:
    local, shared = MemoryStore(), MemoryStore()
    shared.put_tocs({sha256_digest(b"toc"): b"toc"})
    toc = layer_of(b"x", b"toc").toc
    assert toc
    assert ChainedStore(local, shared, warnings.append).tocs([(toc, ["r/a"])]) == {toc.digest: b"toc"}
    assert local.tocs([(toc, [])]) == {toc.digest: b"toc"}


def test_put_goes_to_both(warnings: list[str]) -> None:
    local, shared = MemoryStore(), MemoryStore()
    chain = ChainedStore(local, shared, warnings.append)
    chain.put([record(1)], [image("a", 1)])
    for store in (local, shared):
        assert store.lookup([key(1)], ["main"]) == {key(1): record(1)}
        assert store.images(["main"]) == (image("a", 1),)


def test_what_both_know_is_told_once(warnings: list[str]) -> None:
    local, shared = MemoryStore(), MemoryStore()
    local.put([record(1, "root", minute=1)], [image("a", 1, minute=1)])
    shared.put([record(1, "root", minute=5), record(2, "root", minute=3)], [image("b", 1, minute=2)])
    chain = ChainedStore(local, shared, warnings.append)
    assert chain.children(key("root"), ["main"]) == (record(2, "root", minute=3), record(1, "root", minute=1))
    assert [found.name for found in chain.images(["main"])] == ["b", "a"]
    assert len(list(chain.records(["main"]))) == 2


def test_prune_adds_up(warnings: list[str]) -> None:
    local, shared = MemoryStore(), MemoryStore()
    chain = ChainedStore(local, shared, warnings.append)
    chain.put([record(1, layer=layer_of(b"12345"))])
    pruned = chain.prune(max_size=0)
    assert (pruned.records, pruned.bytes) == (2, 10)


@pytest.mark.parametrize("broken", ["local", "shared"])
def test_a_store_that_fails_is_told_of_once_and_not_asked_again(broken: str, warnings: list[str]) -> None:
    bad, good = Counting(CacheUnavailable("the cache is down")), MemoryStore()
    good.put([record(1)])
    stores = (bad, good) if broken == "local" else (good, bad)
    chain = ChainedStore(*stores, warnings.append)
    assert chain.lookup([key(1), key(2), key(3)], ["main"]) == {key(1): record(1)}
    chain.put([record(2), record(3)], [image("a", 2)])
    chain.put_tocs({sha256_digest(b"toc"): b"toc"})
    chain.touch([key(1)], "main")
    assert chain.lookup([key(2), key(9)], ["main"]) == {key(2): record(2)}
    assert chain.children(key(1), ["main"]) == ()
    chain.close()
    assert warnings == ["the cache is down; the build goes on without it"]
    assert len(bad.asked) == 1
    (losses,) = chain.losses
    keys = 5 if broken == "local" else 3
    written_through = 2 if broken == "local" else 0
    assert losses.reason == "the cache is down"
    assert losses.keys == keys
    assert losses.records == 2 + written_through
    assert losses.tocs == 1


def test_both_may_fail(warnings: list[str]) -> None:
    chain = ChainedStore(Counting(CacheUnavailable("one")), Counting(CacheUnavailable("two")), warnings.append)
    assert chain.lookup([key(1)], ["main"]) == {}
    assert len(warnings) == 2
    assert [losses.reason for losses in chain.losses] == ["one", "two"]


def test_there_need_not_be_any(warnings: list[str]) -> None:
    chain = ChainedStore(None, None, warnings.append)
    chain.put([record(1)])
    assert chain.lookup([key(1)], ["main"]) == {}
    assert chain.scopes() == ()
    assert (chain.losses, warnings) == ((), [])


def test_records_that_are_left_out_are_counted_and_the_store_is_used_on(warnings: list[str]) -> None:
    shared = Counting(RecordsLeftOut("two are not there", 2), RecordsLeftOut("again", 1))
    chain = ChainedStore(None, shared, warnings.append)
    chain.put([record(1), record(2), record(3)])
    chain.put([record(4)])
    assert warnings == ["two are not there"]
    assert chain.losses == (Losses("memory:", None, records=3),)
    assert chain.lookup([key(4)], ["main"]).keys() == {key(4)}


def test_a_store_that_fails_when_it_is_closed(warnings: list[str]) -> None:
    class Closing(MemoryStore):
        def close(self) -> None:
            raise CacheUnavailable("the cache is gone")

    other = Closing()
    ChainedStore(Closing(), other, warnings.append).close()
    assert len(warnings) == 2
    assert "the cache is gone" in warnings[0]


def test_a_damaged_index_is_begun_anew(warnings: list[str]) -> None:
    fresh = MemoryStore()
    chain = ChainedStore(Counting(CacheDamaged("it is damaged")), None, warnings.append, renew=lambda: fresh)
    assert chain.lookup([key(1)], ["main"]) == {}
    chain.put([record(1)])
    assert chain.lookup([key(1)], ["main"]) == {key(1): record(1)}
    assert warnings == ["it is damaged; a new one is begun"]


def test_an_index_that_is_damaged_again_is_given_up(warnings: list[str]) -> None:
    def renew() -> Counting:
        return Counting(CacheDamaged("and this one too"))

    chain = ChainedStore(Counting(CacheDamaged("it is damaged")), None, warnings.append, renew=renew)
    for _ in range(3):
        assert chain.lookup([key(1)], ["main"]) == {}
    assert len(warnings) == 2


# -- the index of a state directory ------------------------------------------------------------------------------------


def test_the_file_of_an_index_is_replaced_when_it_is_garbage(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    chain = open_chain(path, None, warnings.append)
    chain.put([record(1)])
    assert chain.lookup([key(1)], ["main"]) == {key(1): record(1)}
    chain.close()
    assert len(warnings) == 1
    assert "a new one is begun" in warnings[0]
    assert SqliteStore(path).lookup([key(1)], ["main"]) == {key(1): record(1)}


def test_the_pages_of_an_index_are_damaged_while_it_is_open(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "index.sqlite"
    store = SqliteStore(path)
    store.put([record(number) for number in range(200)])
    store.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    chain = open_chain(path, None, warnings.append)
    assert chain.lookup([key(1)], ["main"]) == {}
    chain.put([record(1)])
    assert chain.lookup([key(1)], ["main"]) == {key(1): record(1)}
    assert len(warnings) == 1


def test_an_index_that_cannot_be_opened(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "index.sqlite").mkdir()
    shared = MemoryStore()
    chain = open_chain(tmp_path / "index.sqlite", shared, warnings.append)
    chain.put([record(1)])
    assert chain.lookup([key(1)], ["main"]) == {key(1): record(1)}
    assert len(warnings) == 1
