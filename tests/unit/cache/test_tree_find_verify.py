"""What people ask a cache: drawing it, finding a chain in it, and whether it tells the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from ci_plugins.cache.find import find_chain
from ci_plugins.cache.memory import MemoryStore
from ci_plugins.cache.record import CacheRecord, ImageRecord, RecordedLayer
from ci_plugins.cache.tree import forest, scope_tree
from ci_plugins.cache.verify import Here, Verified, verify
from ci_plugins.errors import RegistryUnreachable, UsageError
from ci_plugins.oci import Descriptor, Digest, sha256_digest
from ci_plugins.plan.file_table import encode
from ci_plugins.report import cache_json, cache_text

NOW = 1_767_571_200.0  # 2026-01-05T00:00:00Z
NOWHERE = Here(blob=lambda layer: False, toc=lambda layer: True)


def key(name: str) -> Digest:
    return sha256_digest(name.encode())


def layer(name: str, size: int = 1000, toc: bytes | None = None) -> RecordedLayer:
    blob = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", key(f"blob {name}"), size)
    table = Descriptor("application/vnd.ci-plugins.toc.v1+zstd", sha256_digest(toc), len(toc)) if toc else None
    return RecordedLayer(blob, key(f"diff {name}"), 3 * size, table)


def step(
    name: str,
    parent: str | None,
    *,
    day: int = 1,
    scope: str = "main",
    at: tuple[str, ...] = ("r.example/app",),
    inputs: Mapping[str, str] = {},
    toc: bytes | None = None,
) -> CacheRecord:
    return CacheRecord(
        key(name),
        key(parent) if parent else None,
        f"RUN {name}" if parent else f"FROM {name}",
        layer(name, toc=toc) if parent else None,
        f"2026-01-{day:02}T00:00:00Z",
        2.5,
        scope,
        at,
        inputs=inputs,
    )


def image(name: str, *names: str, day: int = 1, scope: str = "main") -> ImageRecord:
    return ImageRecord(name, key(f"manifest {name}"), tuple(map(key, names)), f"2026-01-{day:02}T00:00:00Z", scope)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.put(
        [
            step("debian:12", None),
            step("deps", "debian:12", day=2),
            step("one", "deps", day=3),
            step("two", "deps", day=4, inputs={"arg.V": "2", "files": encode({"a/x": b"1234"}), "content": key("c")}),
            step("last", "two", day=4),
            step("alone", "elsewhere", inputs={"base": "alpine@sha256:00"}),
            step("deps", "debian:12", scope="fork"),
        ],
        [
            image("r.example/app:1", "debian:12", "deps", "one"),
            image("r.example/app:2", "debian:12", "deps", "two", "last", day=2),
            image("docker.io/library/short:latest", "debian:12", "deps", "gone"),
        ],
    )
    return made


# --- tree -----------------------------------------------------------------------------------------------------------


def test_a_tree_has_shared_beginnings_once_and_images_as_leaves(store: MemoryStore) -> None:
    drawn = cache_text.render_tree("memory:", forest(store), now=NOW, width=80)
    assert max(map(len, drawn.splitlines())) == 80
    assert [re.sub(r"(?<=\w) {2,}", "  ", line) for line in drawn.splitlines()] == [
        "memory:",
        "",
        "fork: 1 step, 1 kB",
        "… (a step that is not in this scope)",
        f"RUN deps  1 kB  2.5 s  4 d  {key('deps')[7:19]}",
        "",
        "main: 6 steps, 5 kB",
        "FROM alpine@sha256:00",
        f"RUN alone  1 kB  2.5 s  4 d  {key('alone')[7:19]}",
        f"FROM debian:12  4 d  {key('debian:12')[7:19]}",
        f"RUN deps  1 kB  2.5 s  3 d  {key('deps')[7:19]}",
        f"├─ RUN two  1 kB  2.5 s  1 d  {key('two')[7:19]}",
        f"│  RUN last  1 kB  2.5 s  1 d  {key('last')[7:19]}",
        "│    ● r.example/app:2",
        f"└─ RUN one  1 kB  2.5 s  2 d  {key('one')[7:19]}",
        "     ● r.example/app:1",
    ]
    document = json.loads(cache_json.render_tree("memory:", forest(store)))
    main = next(scope for scope in document["scopes"] if scope["scope"] == "main")
    assert (main["records"], main["bytes"]) == (6, 5000)
    nodes = {node["title"]: node for node in main["nodes"]}
    assert nodes["RUN last"]["images"] == ["r.example/app:2"]
    assert nodes["RUN one"]["parent"] == nodes["RUN two"]["parent"] == key("deps")
    assert nodes["FROM alpine@sha256:00"]["record"] is None


def test_an_empty_cache() -> None:
    assert cache_text.render_tree("x", forest(MemoryStore()), now=NOW) == "x\nnothing is recorded yet\n"
    assert json.loads(cache_json.render_tree("x", ()))["scopes"] == []


def test_a_chain_of_thousands_is_drawn_and_one_that_bites_its_tail_is_not() -> None:
    names = [f"step {number}" for number in range(3000)]
    records = [step(name, parent) for name, parent in zip(names[1:], names[:-1], strict=True)]
    tree = scope_tree("main", records, [])
    assert len(cache_text.render_tree("x", [tree], now=NOW).splitlines()) == 3 + 3000
    assert len(json.loads(cache_json.render_tree("x", [tree]))["scopes"][0]["nodes"]) == 3000
    circle = scope_tree("main", [step("a", "b"), step("b", "a")], [])
    assert (circle.roots, circle.records) == ((), 2)


def test_what_others_wrote_cannot_move_the_cursor(store: MemoryStore) -> None:
    store.put([replace(step("evil", "deps"), instruction="RUN \x1b[2J evil\n\u202e")], [image("\x1b]0;x\x07", "evil")])
    assert "\x1b" not in cache_text.render_tree("x", forest(store), now=NOW)
    evil = find_chain(store, key("evil"))
    assert "\x1b" not in cache_text.render_why("x", evil, ())


# --- why ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "steps", "missing"),
    [
        ("r.example/app:1", ["deps", "one"], 0),
        ("r.example/app", ["deps", "two", "last"], 0),
        ("short", ["deps"], 1),
        (key("two"), ["deps", "two"], 0),
        (key("two")[7:17], ["deps", "two"], 0),
        (key("alone")[:20], ["alone"], 0),
    ],
)
def test_an_image_or_a_key_leads_to_its_chain(store: MemoryStore, subject: str, steps: list[str], missing: int) -> None:
    chain = find_chain(store, subject)
    assert [record.instruction for record in chain.steps] == [f"RUN {name}" for name in steps]
    assert len(chain.missing) == missing
    assert chain.scope == "main"
    assert (chain.root is None) == (subject == key("alone")[:20])


def test_nothing_and_too_much_are_usage_errors(store: MemoryStore) -> None:
    for subject in ("unknown/image:1", "sha256:" + "0" * 64, "abc", "", "Upper Case"):
        with pytest.raises(UsageError, match="knows no image and no step"):
            find_chain(store, subject)
    numbers = [number for number in range(3000) if key(f"s{number}").startswith("sha256:0")]
    store.put([step(f"s{number}", "deps") for number in range(3000)])
    prefixes = [key(f"s{number}")[7:11] for number in numbers]
    twice = next(prefix for prefix in prefixes if prefixes.count(prefix) > 1)
    with pytest.raises(UsageError, match="is the beginning of") as caught:
        find_chain(store, twice)
    assert "more digits" in caught.value.remedy


def test_a_chain_shows_inputs_and_places(store: MemoryStore) -> None:
    chain = find_chain(store, "r.example/app:2")
    shown = cache_text.render_why("memory:", chain, {layer("two").descriptor.digest}, width=100)
    assert "ARG      V=2" in shown
    assert "files    1 file: a/x" in shown
    assert "is at    r.example/app, this machine" in shown
    assert "built    2026-01-04T00:00:00Z in 2.5 s" in shown
    document = json.loads(cache_json.render_why("memory:", chain, {layer("two").descriptor.digest}))
    two = document["steps"][1]
    assert (two["here"], two["files"], two["inputs"]["arg.V"]) == (True, ["a/x"], "2")
    assert document["image"]["name"] == "r.example/app:2"
    assert document["root"]["instruction"] == "FROM debian:12"


# --- verify ---------------------------------------------------------------------------------------------------------


def check(store: MemoryStore, there: set[tuple[str, str]], here: Here = NOWHERE) -> Verified:
    """`there` are (repository, step) whose blobs are in place."""
    blobs = {(place, layer(name).descriptor.digest) for place, name in there}
    return verify(store, here, lambda place, blob: (place, blob.digest) in blobs)


def test_records_without_a_blob_are_dropped_and_others_corrected() -> None:
    store = MemoryStore()
    store.put(
        [
            step("true", "base"),
            step("lies", "true"),
            step("half", "true", at=("r.example/app", "r.example/other")),
            step("nowhere", "true", at=()),
        ],
        [image("r.example/app:1", "base", "true", "lies"), image("r.example/app:2", "base", "true")],
    )
    verified = check(store, {("r.example/app", "true"), ("r.example/other", "half")})
    assert {finding.record.instruction: finding.dropped for finding in verified.findings} == {
        "RUN lies": True,
        "RUN half": False,
        "RUN nowhere": True,
    }
    assert (verified.records, verified.asked, verified.dropped) == (4, 4, 2)
    left = {record.instruction: record.repositories for record in store.records(["main"])}
    assert left == {"RUN true": ("r.example/app",), "RUN half": ("r.example/other",)}
    assert [image.name for image in store.images(["main"])] == ["r.example/app:2"]
    text = cache_text.render_verify("memory:", verified)
    assert "forgotten:" in text
    assert "is gone from r.example/app, but is elsewhere" in text
    document = json.loads(cache_json.render_verify("memory:", verified))
    assert {one["instruction"] for one in document["dropped"]} == {"RUN lies", "RUN nowhere"}
    assert check(store, {("r.example/app", "true"), ("r.example/other", "half")}).findings == ()


def test_what_this_machine_has_is_kept() -> None:
    store = MemoryStore()
    store.put([step("local", "base", at=())])
    assert not check(store, set(), Here(blob=lambda layer: True, toc=lambda layer: True)).findings


def test_a_registry_that_does_not_answer_proves_nothing_and_is_asked_once() -> None:
    store = MemoryStore()
    store.put([step(f"s{number}", "base", at=(f"down.example/app{number}",)) for number in range(100)])
    asked: list[str] = []

    def down(place: str, blob: Descriptor) -> bool:
        asked.append(place)
        raise RegistryUnreachable("down.example: connection refused")

    verified = verify(store, NOWHERE, down)
    assert not verified.findings
    assert len(verified.unknown) == 1
    assert "connection refused" in verified.unknown[0]
    assert len(asked) <= 16
    assert len(list(store.records(["main"]))) == 100
    assert "not known: " in cache_text.render_verify("x", verified)


def test_a_table_of_contents_that_is_gone_or_damaged_is_not_promised_any_more() -> None:
    store = MemoryStore()
    store.put_tocs({sha256_digest(b"whole"): b"whole", sha256_digest(b"damaged"): b"something else"})
    store.put([step("a", "base", toc=b"whole"), step("b", "base", toc=b"damaged"), step("c", "base", toc=b"gone")])
    here = Here(blob=lambda layer: True, toc=lambda layer: False)
    verified = check(store, {("r.example/app", name) for name in "abc"}, here)
    assert {finding.record.instruction for finding in verified.findings} == {"RUN b", "RUN c"}
    assert verified.dropped == 0
    tocs = {record.instruction: record.layer and record.layer.toc for record in store.records(["main"])}
    assert [bool(tocs[f"RUN {name}"]) for name in "abc"] == [True, False, False]
    with_files = Here(blob=lambda layer: True, toc=lambda layer: True)
    assert not check(store, {("r.example/app", name) for name in "abc"}, with_files).findings
