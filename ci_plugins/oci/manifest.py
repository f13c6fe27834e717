"""Manifest and ImageIndex (OCI image spec; Docker schema 2 reads the same). Raw bytes are kept: a digest is never
recomputed from JSON that was parsed and written again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci_plugins.oci import media
from ci_plugins.oci.descriptor import Descriptor, Platform
from ci_plugins.oci.digest import sha256_digest


@dataclass(frozen=True, slots=True)
class Manifest:
    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, sha256_digest(self.raw), len(self.raw))

    @classmethod
    def of(cls, config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str] = {}) -> Manifest:
        """An OCI manifest over these blobs. Docker layer types are written as their OCI equivalents."""
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": _as_oci(config).to_json(),
            "layers": [_as_oci(layer).to_json() for layer in layers],
        }
        if annotations:
            value["annotations"] = dict(annotations)
        return parse_manifest(json.dumps(value, separators=(",", ":")).encode(), media.OCI_MANIFEST)


@dataclass(frozen=True, slots=True)
class ImageIndex:
    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, sha256_digest(self.raw), len(self.raw))

    def for_platform(self, platform: Platform) -> Descriptor | None:
        """The manifest for a platform: the same variant first, then one that names none. None if there is none."""
        fitting = [
            entry
            for entry in self.manifests
            if entry.platform
            and (entry.platform.os, entry.platform.architecture) == (platform.os, platform.architecture)
        ]
        for variant in (platform.variant, ""):
            for entry in fitting:
                if entry.platform and entry.platform.variant == variant:
                    return entry
        return fitting[0] if fitting and not platform.variant else None


def parse_manifest(raw: bytes, media_type: str) -> Manifest:
    """Raises ValueError."""
    value = _object(raw)
    if value.get("schemaVersion") != 2 or "config" not in value:
        raise ValueError("not an OCI or Docker schema 2 image manifest")
    layers = tuple(Descriptor.from_json(layer) for layer in value.get("layers") or ())
    return Manifest(raw, str(value.get("mediaType") or media_type), Descriptor.from_json(value["config"]), layers)


def parse_index(raw: bytes, media_type: str) -> ImageIndex:
    """Raises ValueError."""
    value = _object(raw)
    entries = tuple(Descriptor.from_json(entry) for entry in value.get("manifests") or ())
    return ImageIndex(raw, str(value.get("mediaType") or media_type), entries)


def parse_manifest_or_index(raw: bytes, media_type: str) -> Manifest | ImageIndex:
    """By the document's own mediaType, else the given one, else by what it holds. Raises ValueError."""
    value = _object(raw)
    declared = str(value.get("mediaType") or media_type)
    if declared in media.INDEXES or (declared not in media.MANIFESTS and "manifests" in value):
        return parse_index(raw, declared)
    return parse_manifest(raw, declared)


def _object(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _as_oci(descriptor: Descriptor) -> Descriptor:
    media_type = media.OCI_EQUIVALENT.get(descriptor.media_type, descriptor.media_type)
    return Descriptor(media_type, descriptor.digest, descriptor.size, annotations=descriptor.annotations)
