"""What the forest of layer chains is made of: records of steps, and images as paths through it.

A record stands at its StepKey and points to its parent's; the records of all builds together are a forest (a trie):
root records are base images, siblings are builds that part ways, images that share a beginning share its records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ci_plugins.oci import Descriptor, Digest, parse_digest

#: Part of every StepKey and of every stored record: records of another version are never read.
KEY_VERSION = 1

#: The scope of what no other scope is given for.
DEFAULT_SCOPE = "default"

#: The input that names the image a record's layer was taken from, where no build of ours wrote it.
FOREIGN = "foreign"

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RecordedLayer:
    """A layer somebody wrote. `size` counts the bytes of the uncompressed tar; `toc` is the blob of its table of
    contents (`layer.toc.Toc.to_bytes`), None where none was stored."""

    descriptor: Descriptor
    diff_id: Digest
    size: int
    toc: Descriptor | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"descriptor": self.descriptor.to_json(), "diff_id": self.diff_id, "size": self.size}
        return {**value, "toc": self.toc.to_json()} if self.toc else value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordedLayer:
        toc = value.get("toc")
        return cls(
            Descriptor.from_json(value["descriptor"]),
            parse_digest(value["diff_id"]),
            int(value["size"]),
            Descriptor.from_json(toc) if toc else None,
        )


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """One step that was executed, or the root of a chain.

    `layer` is what the step wrote, None if nothing. `base` is for roots: the base image's layers, lowest first.
    `repositories` ("host/name") are known to hold the blobs; empty: only this machine does. `inputs` say in words and
    digests what the key was made of, for people who ask why it changed; they decide nothing. `seconds` of a layer that
    somebody else built are not known: 0, and `inputs` has FOREIGN.
    """

    key: Digest
    parent: Digest | None
    instruction: str
    layer: RecordedLayer | None
    #: when the step was executed, RFC 3339: a reused step keeps its time, so an unchanged image keeps its digest
    created: str
    seconds: float
    scope: str = DEFAULT_SCOPE
    repositories: tuple[str, ...] = ()
    base: tuple[RecordedLayer, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def to_json(self) -> str:
        """Without key and scope, which are where it is stored."""
        value: dict[str, Any] = {
            "parent": self.parent,
            "instruction": self.instruction,
            "created": self.created,
            "seconds": round(self.seconds, 3),
        }
        if self.layer:
            value["layer"] = self.layer.to_json()
        if self.base:
            value["base"] = [layer.to_json() for layer in self.base]
        if self.repositories:
            value["repositories"] = list(self.repositories)
        if self.inputs:
            value["inputs"] = dict(self.inputs)
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, key: Digest, text: str | bytes, scope: str = DEFAULT_SCOPE) -> CacheRecord:
        """Raises ValueError for what is not a record."""
        try:
            value = json.loads(text)
            return cls(
                key=key,
                parent=parse_digest(value["parent"]) if value["parent"] else None,
                instruction=str(value["instruction"]),
                layer=RecordedLayer.from_json(value["layer"]) if value.get("layer") else None,
                created=str(value["created"]),
                seconds=float(value["seconds"]),
                scope=scope,
                repositories=tuple(str(name) for name in value.get("repositories") or ()),
                base=tuple(RecordedLayer.from_json(layer) for layer in value.get("base") or ()),
                inputs={str(name): str(item) for name, item in (value.get("inputs") or {}).items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a cache record: {text[:200]!r}") from error


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A path through the forest that became an image: `keys` from the root to the last step."""

    name: str
    manifest: Digest
    keys: tuple[Digest, ...]
    created: str
    scope: str = DEFAULT_SCOPE

    def to_json(self) -> str:
        """Without name and scope, which are where it is stored."""
        value = {"manifest": self.manifest, "keys": list(self.keys), "created": self.created}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, name: str, text: str | bytes, scope: str = DEFAULT_SCOPE) -> ImageRecord:
        """Raises ValueError for what is not a record."""
        try:
            value = json.loads(text)
            keys = tuple(parse_digest(key) for key in value["keys"])
            return cls(name, parse_digest(value["manifest"]), keys, str(value["created"]), scope)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not an image record: {text[:200]!r}") from error
