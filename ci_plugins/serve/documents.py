"""What the registry reads in a manifest before it accepts it. The bytes are kept as they came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ci_plugins.oci import Descriptor, Digest, media
from ci_plugins.serve.refusal import Refusal

#: Layers a registry need not have: their URLs say where they are (image spec, layer.md, "Non-Distributable Layers").
_FOREIGN = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest of any kind."""

    media_type: str
    #: blobs and manifests which must be in the repository before this is
    references: tuple[Descriptor, ...]
    subject: Digest | None
    #: as the referrers list shows it
    artifact_type: str
    annotations: Mapping[str, str]


def read_document(raw: bytes, content_type: str) -> Document:
    """Raises Refusal (400, MANIFEST_INVALID)."""
    try:
        value = json.loads(raw)
        if not isinstance(value, dict) or value.get("schemaVersion") != 2:
            raise ValueError("not a JSON object with schemaVersion 2")
        return _document(value, content_type.partition(";")[0].strip().lower())
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal(400, "MANIFEST_INVALID", f"not a manifest: {error}") from error


def _document(value: dict[str, Any], content_type: str) -> Document:
    declared = value.get("mediaType") or content_type
    if not declared or not isinstance(declared, str):
        raise ValueError("neither a Content-Type nor a mediaType")
    if content_type and declared.lower() != content_type:
        raise ValueError(f"its mediaType is {declared}, but it is sent as {content_type}")
    if declared in media.MANIFESTS and not value.get("config"):
        raise ValueError(f"a {declared} needs a config")
    if declared in media.INDEXES and "manifests" not in value:
        raise ValueError(f"a {declared} needs a list of manifests")
    listed = [*([value["config"]] if value.get("config") else []), *_listed(value)]
    subject = Descriptor.from_json(value["subject"]).digest if value.get("subject") else None
    config_type = (value.get("config") or {}).get("mediaType", "")
    annotations = value.get("annotations") or {}
    return Document(
        media_type=declared,
        references=tuple(
            descriptor
            for descriptor in map(Descriptor.from_json, listed)
            if not (descriptor.urls and descriptor.media_type.startswith(_FOREIGN))
        ),
        subject=subject,
        artifact_type=str(value.get("artifactType") or config_type),
        annotations={str(key): str(item) for key, item in annotations.items()},
    )


def _listed(value: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for field in ("layers", "manifests", "blobs"):
        entries = value.get(field) or []
        if not isinstance(entries, list):
            raise ValueError(f"{field} is not a list")
        found.extend(entries)
    return found
