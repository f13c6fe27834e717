"""CacheRecord: what a StepKey led to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ci_plugins.oci import Descriptor, Digest, parse_digest

#: Part of every StepKey and of every stored record: records of another version are never read.
KEY_VERSION = 1


@dataclass(frozen=True, slots=True)
class RecordedLayer:
    """The layer a step wrote. `size` counts the bytes of the uncompressed tar."""

    descriptor: Descriptor
    diff_id: Digest
    size: int


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """One executed step: its key, the key it stands on, the layer it wrote (None if none), what it cost."""

    key: Digest
    parent: Digest | None
    instruction: str
    layer: RecordedLayer | None
    #: when the step was executed, RFC 3339: a reused step keeps its time, so an unchanged image keeps its digest
    created: str
    seconds: float

    def to_json(self) -> str:
        layer = self.layer
        value: dict[str, Any] = {
            "parent": self.parent,
            "instruction": self.instruction,
            "created": self.created,
            "seconds": round(self.seconds, 3),
        }
        if layer:
            value["layer"] = {"descriptor": layer.descriptor.to_json(), "diff_id": layer.diff_id, "size": layer.size}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, key: Digest, text: str) -> CacheRecord:
        """Raises ValueError for what is not a record."""
        try:
            value = json.loads(text)
            layer = value.get("layer")
            return cls(
                key=key,
                parent=parse_digest(value["parent"]) if value["parent"] else None,
                instruction=str(value["instruction"]),
                layer=RecordedLayer(
                    Descriptor.from_json(layer["descriptor"]), parse_digest(layer["diff_id"]), int(layer["size"])
                )
                if layer
                else None,
                created=str(value["created"]),
                seconds=float(value["seconds"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a cache record: {text[:200]!r}") from error
