"""How records look in a registry: OCI manifests that hold nothing but annotations and the blobs they keep alive.

    ci-plugins-cache-<scope>               a scope's snapshot: its recent records, one or more layer entries each
    ci-plugins-cache-<scope>-<key>         one record: its layer and tables of contents are its layers
    ci-plugins-cache-<scope>-image-<name>  one image

In these tags `<scope>` is 16 hex digits of the sha256 of the scope's name, `<key>` the first 24 of the StepKey,
`<name>` 24 of the sha256 of the image's name. What they stand for is written out in the annotations. The config is
the empty one of the OCI image spec (manifest.md, "Guidance for an Empty Descriptor").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ci_plugins.cache.record import KEY_VERSION, CacheRecord, ImageRecord
from ci_plugins.oci import Descriptor, Digest, hex_of, media, parse_digest, sha256_digest

ARTIFACT_TYPE = "application/vnd.ci-plugins.cache.v1"
EMPTY_BLOB = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", sha256_digest(EMPTY_BLOB), len(EMPTY_BLOB))

#: A snapshot holds no more: it is read at the start of every build, and registries limit manifests to 4 MiB.
MOST_RECORDS = 500
MOST_BYTES = 1 << 20

_NAME = "vnd.ci-plugins.cache."
_TAG = re.compile(r"ci-plugins-cache-([0-9a-f]{16})(?:-(image-)?([0-9a-f]{24}))?\Z")


# -- tags --------------------------------------------------------------------------------------------------------------


def snapshot_tag(scope: str) -> str:
    return f"ci-plugins-cache-{_hash(scope, 16)}"


def record_tag(scope: str, key: Digest) -> str:
    return f"{snapshot_tag(scope)}-{hex_of(key)[:24]}"


def image_tag(scope: str, name: str) -> str:
    return f"{snapshot_tag(scope)}-image-{_hash(name, 24)}"


def kind_of(tag: str) -> tuple[str, str] | None:
    """("snapshot", "record" or "image", the tag of the snapshot it belongs to); None for tags of others."""
    match = _TAG.match(tag)
    if match is None:
        return None
    kind = "image" if match[2] else "record" if match[3] else "snapshot"
    return kind, f"ci-plugins-cache-{match[1]}"


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]


# -- entries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it is stored. `used` is the last use, in seconds since the epoch; `blobs` are kept alive by it."""

    key: Digest
    version: int
    used: float
    text: str
    blobs: tuple[Descriptor, ...]

    def record(self, scope: str) -> CacheRecord | None:
        """None if it is damaged or of another version."""
        if self.version != KEY_VERSION:
            return None
        try:
            return CacheRecord.from_json(self.key, self.text, scope)
        except ValueError:
            return None

    def annotations(self) -> dict[str, str]:
        return _named(key=self.key, version=str(self.version), used=f"{self.used:.3f}", record=self.text)

    @classmethod
    def read(cls, annotations: Mapping[str, Any], blobs: Iterable[Descriptor]) -> Entry:
        """Raises ValueError, KeyError, TypeError."""
        held = tuple(blob for blob in blobs if blob.digest != EMPTY.digest)
        key = parse_digest(annotations[_NAME + "key"])
        version, used = int(annotations[_NAME + "version"]), float(annotations[_NAME + "used"])
        return cls(key, version, used, str(annotations[_NAME + "record"]), held)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The recent records of a scope; `complete` if it never had others. `known`: it was found and could be read."""

    scope: str
    entries: Mapping[Digest, Entry]
    complete: bool
    known: bool = True


# -- documents ---------------------------------------------------------------------------------------------------------


def write_record(scope: str, entry: Entry) -> bytes:
    layers = [_layer(blob) for blob in entry.blobs]
    return _write(layers, {**_named(kind="record", scope=scope), **entry.annotations()})


def read_record(raw: bytes, scope: str, key: Digest) -> Entry | None:
    """None for what is not the record of this key in this scope."""
    entry = read_any_record(raw, scope)
    return entry if entry and entry.key == key else None


def read_any_record(raw: bytes, scope: str) -> Entry | None:
    """None for what is not a record of this scope: damaged, removed, of somebody else."""
    try:
        value, annotations = _read(raw, "record")
        if annotations[_NAME + "scope"] != scope:
            return None
        return Entry.read(annotations, map(Descriptor.from_json, value["layers"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def scope_of_record(raw: bytes) -> str | None:
    """None for what is not a record."""
    try:
        scope = _read(raw, "record")[1][_NAME + "scope"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return scope if isinstance(scope, str) else None


def write_snapshot(scope: str, entries: Iterable[Entry], complete: bool) -> tuple[bytes, Snapshot]:
    """The manifest, and what it holds: the longest unused are left out where there are too many."""
    layers: list[dict[str, Any]] = []
    kept: dict[Digest, Entry] = {}
    size = 0
    for entry in sorted(entries, key=lambda entry: entry.used, reverse=True):
        first, *others = entry.blobs or (EMPTY,)
        written = [{**_layer(first), "annotations": entry.annotations()}, *map(_layer, others)]
        size += len(json.dumps(written))
        if len(kept) == MOST_RECORDS or size > MOST_BYTES:
            complete = False
            break
        kept[entry.key] = entry
        layers += written
    annotations = _named(kind="snapshot", scope=scope, complete="true" if complete else "false")
    return _write(layers, annotations), Snapshot(scope, kept, complete)


def read_snapshot(raw: bytes, scope: str | None = None) -> Snapshot | None:
    """None for what is no snapshot, or another scope's. Entries that are damaged are missing in it."""
    try:
        value, annotations = _read(raw, "snapshot")
        named = annotations[_NAME + "scope"]
        if named != (named if scope is None else scope) or not isinstance(named, str):
            return None
        groups: list[tuple[Mapping[str, Any], list[Descriptor]]] = []
        for layer in value["layers"]:
            if _NAME + "key" in (layer.get("annotations") or {}):
                groups.append((layer["annotations"], []))
            if groups:
                groups[-1][1].append(_bare(Descriptor.from_json(layer)))
        entries = {entry.key: entry for group in groups if (entry := _entry(*group))}
        complete = annotations.get(_NAME + "complete") == "true" and len(entries) == len(groups)
        return Snapshot(named, entries, complete)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_image(image: ImageRecord) -> bytes:
    named = _named(kind="image", scope=image.scope, name=image.name, version=str(KEY_VERSION), image=image.to_json())
    return _write([], named)


def read_image(raw: bytes, scope: str) -> ImageRecord | None:
    """None for what is no image of this scope that could be read."""
    try:
        _, annotations = _read(raw, "image")
        if annotations[_NAME + "scope"] != scope or annotations[_NAME + "version"] != str(KEY_VERSION):
            return None
        return ImageRecord.from_json(str(annotations[_NAME + "name"]), annotations[_NAME + "image"], scope)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_removed(tag: str) -> bytes:
    """What takes the place of something in a registry that deletes nothing."""
    return _write([], _named(kind="removed", tag=tag))


def as_held(blob: Descriptor) -> Descriptor:
    """As it is named in a manifest of ours: Docker's layer types are the same bytes under another name."""
    return Descriptor(media.OCI_EQUIVALENT.get(blob.media_type, blob.media_type), blob.digest, blob.size)


def _named(**annotations: str) -> dict[str, str]:
    return {_NAME + name: value for name, value in annotations.items()}


def _layer(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _bare(blob: Descriptor) -> Descriptor:
    return Descriptor(blob.media_type, blob.digest, blob.size)


def _entry(annotations: Mapping[str, Any], blobs: list[Descriptor]) -> Entry | None:
    try:
        return Entry.read(annotations, blobs)
    except (ValueError, KeyError, TypeError):
        return None


def _write(layers: list[dict[str, Any]], annotations: Mapping[str, str]) -> bytes:
    value = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": _layer(EMPTY),
        "layers": layers or [_layer(EMPTY)],
        "annotations": annotations,
    }
    return json.dumps(value, separators=(",", ":")).encode()


def _read(raw: bytes, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The document and its annotations. Raises ValueError and what a document of another shape leads to."""
    value = json.loads(raw)
    annotations = value["annotations"]
    if value.get("artifactType") != ARTIFACT_TYPE or annotations.get(_NAME + "kind") != kind:
        raise ValueError(f"not a {kind} of a cache")
    return value, annotations
