"""Documents of a forest: what one question tells, what is shared, what is put right, what is never read."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.record import CacheRecord
from ci_plugins.foreign import documents, noted
from ci_plugins.foreign.asked import ForeignForest
from ci_plugins.foreign.documents import publish
from ci_plugins.foreign.known import KnownLayer, document_scope, newest, pack, read_document, unpack, write_document
from ci_plugins.foreign.noted import Noted, NotedTag, read_noted, write_noted
from ci_plugins.oci import Descriptor, Digest, media, sha256_digest

BASE = sha256_digest(b"base")
ONE, TWO = "registry.test/one", "registry.test/two"


def layer(name: str, below: Digest = BASE, *, step: str = "", day: int = 1, repository: str = ONE) -> KnownLayer:
    """The layer `name` of a `step`, both of the same name if only one is given."""
    return KnownLayer(
        place=sha256_digest(f"{below} {step or name}".encode()),
        below=below,
        bottom=BASE,
        diff_id=sha256_digest(name.encode()),
        descriptor=Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b"gz " + name.encode()), 100),
        created=f"2026-01-{day:02}T00:00:00Z",
        image=f"{repository}:1",
    )


def chain(*names: str, repository: str = ONE) -> list[KnownLayer]:
    made: list[KnownLayer] = []
    for name in names:
        made.append(layer(name, made[-1].chain if made else BASE, repository=repository))
    return made


def told(store: MemoryStore, place: Digest) -> tuple[KnownLayer, ...]:
    return read_document(store.lookup([place], [document_scope(BASE, place)]).get(place))


def all_of(store: MemoryStore) -> list[CacheRecord]:
    return list(store.records(store.scopes()))


def test_a_document_tells_all_that_stands_on_its_place() -> None:
    layers, store = chain("a", "b", "c"), MemoryStore()
    publish(store, ONE, (), layers)
    assert [told(store, one.place) for one in layers] == [tuple(layers), tuple(layers[1:]), tuple(layers[2:])]


def test_repositories_share_documents() -> None:
    one, two, store = chain("a", "b"), chain("a", "c", repository=TWO), MemoryStore()
    publish(store, ONE, (), one)
    publish(store, TWO, (), two)
    place = one[0].place
    assert set(told(store, place)) == {*one, *two}
    # an index that has not changed leaves the other alone, one that is empty takes only its own
    publish(store, ONE, one, one)
    assert set(told(store, place)) == {*one, *two}
    publish(store, ONE, one, [])
    assert told(store, place) == tuple(two)
    assert told(store, one[1].place) == ()
    publish(store, TWO, two, [])
    assert all_of(store) == []


def test_what_was_lost_comes_back_with_the_next_index() -> None:
    one, two, store = chain("a", "b"), chain("a", "c", repository=TWO), MemoryStore()
    publish(store, TWO, (), two)
    before = store.lookup([two[0].place], [two[0].scope])
    publish(store, ONE, (), one)
    store.put(list(before.values()))  # somebody who read it earlier has written it later
    assert set(told(store, one[0].place)) == set(two)
    publish(store, ONE, one, one)
    assert set(told(store, one[0].place)) == {*one, *two}
    for record in all_of(store):
        store.remove([record.key], record.scope)
    publish(store, ONE, one, one)
    assert set(told(store, one[0].place)) == set(one)


def test_what_is_still_indexed_is_in_use() -> None:
    class Touched(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.touched: set[Digest] = set()

        def touch(self, keys: Sequence[Digest], scope: str) -> None:
            self.touched.update(keys)

    layers, store = chain("a", "b"), Touched()
    publish(store, ONE, (), layers)
    assert not store.touched
    publish(store, ONE, layers, layers)
    assert store.touched == {one.place for one in layers}


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"version": "1"},
        {"version": "3"},
        {"content": ""},
        {"content": "no base64!"},
        {"content": pack({"a": 1})},
        {"content": pack([["short"]])},
        {"content": pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])},
        {"content": pack([["sha256:x", None, None, "sha256:y", "t", "sha256:z", 1, "", "a/b:1", 0]])},
        {"content": pack([])[:-8]},
    ],
    ids=str,
)
def test_what_is_no_document_of_this_layout_is_not_read(inputs: Mapping[str, str]) -> None:
    [one] = chain("a")
    record = write_document(one.place, [one])
    assert read_document(record) == (one,)
    damaged = replace(record, inputs={**record.inputs, **inputs} if inputs else {"image": one.image})
    assert read_document(damaged) == ()
    # an index writes over it
    store = MemoryStore()
    store.put([damaged])
    publish(store, ONE, [one], [one])
    assert told(store, one.place) == (one,)


def test_what_unpacks_to_too_much_is_not_read() -> None:
    with pytest.raises(ValueError, match="too large"):
        unpack(pack(["0" * (65 << 20)]))


def test_a_large_repository_is_noted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "_PART", 500)
    tags = {f"v{n}": NotedTag(sha256_digest(b"%d" % n), (layer(f"l{n}"),)) for n in range(20)}
    wanted, store = Noted.of(ONE, tags), MemoryStore()
    write_noted(store, wanted)
    records = list(store.records([f"foreign:{ONE}"]))
    assert len(records) > 3
    assert read_noted(store, ONE) == wanted
    assert read_noted(store, TWO) == Noted(TWO)
    store.remove([max(records, key=lambda record: record.instruction).key], f"foreign:{ONE}")
    assert read_noted(store, ONE) == Noted(ONE)


def test_a_layer_of_many_tags_is_noted_once() -> None:
    [one] = chain("a")
    tags = {f"v{n}": NotedTag(sha256_digest(b"%d" % n), (replace(one, image=f"{ONE}:v{n}"),)) for n in range(9)}
    assert Noted.of(ONE, tags).layers() == [replace(one, image=f"{ONE}:v0")]
    del tags["v0"]
    assert Noted.of(ONE, tags).layers() == [replace(one, image=f"{ONE}:v1")]


@given(seed=st.integers(0, 1 << 32), images=st.integers(1, 60), most=st.integers(8, 60))
def test_a_walk_finds_the_same_however_the_forest_is_cut(seed: int, images: int, most: int) -> None:
    """Random images of two repositories, indexed in turns; every chain that can be reached is."""
    chosen = random.Random(seed)
    known: dict[str, dict[tuple[Digest, Digest], KnownLayer]] = {ONE: {}, TWO: {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "MOST_LAYERS", most)
        store = MemoryStore()
        for _ in range(images):
            repository = chosen.choice((ONE, TWO))
            before, below = list(known[repository].values()), BASE
            for _ in range(chosen.randrange(1, 6)):
                number, step = chosen.randrange(4), chosen.randrange(3)
                day = 1 + (number * 7 + step * 11) % 28
                one = layer(f"{step} {number}", below, step=f"step {step}", day=day, repository=repository)
                known[repository].setdefault(one.identity, one)
                below = one.chain
            publish(store, repository, before, list(known[repository].values()))
        assert max(len(read_document(record)) for record in all_of(store)) <= most

    def look_up(keys: Sequence[Digest], scopes: Sequence[str]) -> list[Mapping[Digest, CacheRecord]]:
        return [store.lookup(keys, scopes)]

    at: dict[Digest, list[KnownLayer]] = defaultdict(list)
    for one in (*known[ONE].values(), *known[TWO].values()):
        at[one.place].append(one)
    forest, waiting, seen = ForeignForest(look_up), [BASE], {BASE}
    while waiting:
        below = waiting.pop()
        places = [layer("", below, step=f"step {number}").place for number in range(3)]
        if not forest.tells_all(below):
            forest.ask({place: document_scope(BASE, place) for place in places})
        for place in places:
            assert [replace(one, more=False) for one in forest.layers(place)] == newest(at[place])
            reached = {one.chain for one in forest.layers(place)} - seen
            seen |= reached
            waiting += reached
    assert forest.questions == 1 or any(one.more for record in all_of(store) for one in read_document(record))
