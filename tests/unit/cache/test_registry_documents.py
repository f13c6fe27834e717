"""How records look in a registry: what was written is read back, anything else is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.cache.record import KEY_VERSION
from ci_plugins.cache.registry_documents import (
    EMPTY,
    MOST_BYTES,
    MOST_RECORDS,
    Entry,
    as_held,
    image_tag,
    kind_of,
    read_any_record,
    read_image,
    read_record,
    read_snapshot,
    record_tag,
    scope_of_record,
    snapshot_tag,
    write_image,
    write_record,
    write_removed,
    write_snapshot,
)
from ci_plugins.oci import Descriptor, media, parse_manifest, sha256_digest
from ci_plugins.oci.reference import Reference
from tests.cache_suite import ODD_SCOPES, blob, image, key, layer_of, record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def entry(number: int, *, used: float = 0.0, blobs: int = 0, text: str | None = None) -> Entry:
    held = tuple(as_held(layer_of(blob((number, which))).descriptor) for which in range(blobs))
    return Entry(key(number), KEY_VERSION, used, text or record(number).to_json(), held)


@pytest.mark.parametrize("scope", [*ODD_SCOPES, "\udcff"])
def test_tags(scope: str) -> None:
    for tag, kind in (
        (snapshot_tag(scope), "snapshot"),
        (record_tag(scope, key(1)), "record"),
        (image_tag(scope, scope), "image"),
    ):
        assert Reference.parse(f"registry.example/app:{tag}").tag == tag
        assert kind_of(tag) == (kind, snapshot_tag(scope))


@pytest.mark.parametrize("tag", ["latest", "ci-plugins-cache", "ci-plugins-cache-0123456789abcdef-x", "v1"])
def test_tags_of_others(tag: str) -> None:
    assert kind_of(tag) is None


@pytest.mark.parametrize("blobs", [0, 1, 3])
def test_a_record(blobs: int) -> None:
    written = entry(1, used=1772625600.123, blobs=blobs)
    raw = write_record("main", written)
    assert read_record(raw, "main", key(1)) == written == read_any_record(raw, "main")
    assert written.record("main") == record(1)
    assert read_record(raw, "main", key(2)) is None
    assert read_any_record(raw, "other") is None
    assert scope_of_record(raw) == "main"
    # others read it as a manifest, and find the blobs in it
    manifest = parse_manifest(raw, media.OCI_MANIFEST)
    assert manifest.config == EMPTY
    assert manifest.layers == (written.blobs or (EMPTY,))


def test_layers_of_docker_are_named_as_oci_does() -> None:
    held = as_held(Descriptor(media.DOCKER_LAYER_GZIP, sha256_digest(b"x"), 1, urls=("http://x",)))
    assert held == Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b"x"), 1)


def test_a_snapshot() -> None:
    entries = [entry(number, used=number, blobs=number % 3) for number in range(20)]
    raw, snapshot = write_snapshot("main", entries, complete=True)
    assert read_snapshot(raw, "main") == read_snapshot(raw) == snapshot
    assert snapshot.complete
    assert snapshot.entries == {item.key: item for item in entries}
    assert read_snapshot(raw, "other") is None
    assert read_snapshot(write_snapshot("main", entries, complete=False)[0]) == replace(snapshot, complete=False)


def test_a_snapshot_has_room_for_the_latest() -> None:
    many = [entry(number, used=number) for number in range(MOST_RECORDS + 3)]
    _, snapshot = write_snapshot("main", many, complete=True)
    assert set(snapshot.entries) == {key(number) for number in range(3, MOST_RECORDS + 3)}
    assert not snapshot.complete
    large = [entry(number, used=number, text=json.dumps("x" * 10_000)) for number in range(200)]
    raw, snapshot = write_snapshot("main", large, complete=True)
    assert MOST_BYTES // 2 < len(raw) < 1.1 * MOST_BYTES
    assert key(199) in snapshot.entries
    assert not snapshot.complete


def test_an_entry_that_is_damaged_is_missing_and_the_snapshot_not_complete() -> None:
    raw, _ = write_snapshot("main", [entry(1), entry(2)], complete=True)
    value = json.loads(raw)
    value["layers"][0]["annotations"]["vnd.ci-plugins.cache.used"] = "yesterday"
    snapshot = read_snapshot(json.dumps(value).encode(), "main")
    assert snapshot
    assert set(snapshot.entries) == {key(2)}
    assert not snapshot.complete


def test_another_version_is_kept_but_not_read() -> None:
    old = replace(entry(1), version=KEY_VERSION - 1)
    assert old.record("main") is None
    snapshot = read_snapshot(write_snapshot("main", [old], complete=True)[0], "main")
    assert snapshot
    assert snapshot.entries == {key(1): old}


def test_unknown_fields_are_no_harm() -> None:
    text = json.dumps({**json.loads(record(1).to_json()), "later": {"more": [1]}})
    raw = write_record("main", entry(1, text=text))
    value = json.loads(raw)
    value["annotations"]["org.example.note"] = "x"
    value["subject"] = None
    read = read_record(json.dumps(value).encode(), "main", key(1))
    assert read
    assert read.record("main") == record(1)


def test_an_image() -> None:
    written = image("registry.example/ünï:1", 1, 2)
    assert read_image(write_image(written), "main") == written
    assert read_image(write_image(written), "other") is None
    assert read_image(write_record("main", entry(1)), "main") is None


def readers(raw: bytes) -> list[Any]:
    return [
        read_any_record(raw, "main"),
        read_record(raw, "main", key(1)),
        read_snapshot(raw, "main"),
        read_snapshot(raw),
        read_image(raw, "main"),
        scope_of_record(raw),
    ]


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, write_removed("x")])
def test_what_is_none_of_these(raw: bytes) -> None:
    assert not any(readers(raw))


@given(st.data())
def test_documents_with_anything_anywhere(data: st.DataObject) -> None:
    """Whatever takes the place of a part: nothing is raised, and no record of another key or scope comes out."""
    written = data.draw(
        st.sampled_from(
            [
                write_record("main", entry(1, blobs=2)),
                write_snapshot("main", [entry(1, blobs=2), entry(2)], complete=True)[0],
                write_image(image("a", 1)),
            ]
        )
    )
    value = json.loads(written)
    place = value
    while data.draw(st.booleans()) and isinstance(place, dict | list) and place:
        name = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[name], dict | list) or data.draw(st.booleans()):
            place[name] = data.draw(JSON)
            break
        place = place[name]
    raw = json.dumps(value).encode()
    readers(raw)
    for found in (read_any_record(raw, "main"), read_record(raw, "main", key(1))):
        if found and (read := found.record("main")):
            assert read.scope == "main"
            assert read.key == found.key
