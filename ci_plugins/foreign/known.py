"""What an index knows of layers built elsewhere, and how that is stored: as records without a layer of their own.

A document is the record at the `foreign_key` of a place in the forest. It holds the layers somebody built there and
all that stands on them, so that one look-up by a key that is known before anything was found tells a whole chain:

    key            the place: the `foreign_key` of the layers that a walk begins with
    scope          foreign:<DiffID of the lowest layer of the chain>:<first digit of the key>
    inputs         version: the layout, 2; content: the layers, a JSON list of rows, zlib, base64

Nothing holds the layers themselves: an index fits where they are not, and keeps nobody from deleting them.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci_plugins.cache.forest import moment
from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.oci import Descriptor, Digest, Reference, chain_id, hex_of, parse_digest

SCOPE = "foreign:"
#: Raised with every change of what is stored: of another layout nothing is read.
LAYOUT = "2"
#: How many layers of one place are considered, the newest first: each may cost questions and a download.
CANDIDATES = 8
#: What claims to unpack to more is damaged.
_MOST_BYTES = 64 << 20
_SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A layer of `image` at `place`, the `foreign_key` of the step that wrote it. `below` is the ChainID of the layers
    under it, `bottom` the lowest of them; None: it stands on nothing. `more`: not all that stands on it was told."""

    place: Digest
    below: Digest | None
    bottom: Digest | None
    diff_id: Digest
    descriptor: Descriptor
    created: str
    image: str
    more: bool = False

    @property
    def chain(self) -> Digest:
        """The ChainID with this layer."""
        return chain_id(self.below, self.diff_id)

    @property
    def identity(self) -> tuple[Digest, Digest]:
        """Tells apart the layers of one repository."""
        return self.place, self.diff_id

    @property
    def repository(self) -> str:
        """ "host/name"."""
        reference = Reference.parse(self.image)
        return f"{reference.registry}/{reference.repository}"

    @property
    def scope(self) -> str:
        return document_scope(self.bottom, self.place)

    def record(self) -> CacheRecord:
        """As a record, for all that judges records."""
        return CacheRecord(
            key=self.place,
            parent=None,
            instruction="",
            # The size uncompressed is not known before somebody has read it: it is not less than this.
            layer=RecordedLayer(self.descriptor, self.diff_id, self.descriptor.size),
            created=self.created,
            seconds=0.0,
            repositories=(self.repository,),
            inputs={"image": self.image},
        )

    def to_row(self) -> list[Any]:
        blob = self.descriptor
        ids = self.place, self.below, self.bottom, self.diff_id
        return [*ids, blob.media_type, blob.digest, blob.size, self.created, self.image, int(self.more)]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> KnownLayer:
        """Raises ValueError, TypeError for what is no row."""
        place, below, bottom, diff_id, media_type, digest, size, created, image, more = row
        Reference.parse(image)
        return cls(
            parse_digest(place),
            parse_digest(below) if below else None,
            parse_digest(bottom) if bottom else None,
            parse_digest(diff_id),
            Descriptor.from_json({"mediaType": media_type, "digest": digest, "size": size}),
            str(created),
            image,
            bool(more),
        )


def repository_scope(repository: str) -> str:
    """Where it is noted what was read of a repository, "host/name"."""
    return f"{SCOPE}{repository}"


def document_scope(bottom: Digest | None, place: Digest) -> str:
    """In a registry a scope is what one request reads, and the less else is in it the better: here a sixteenth of the
    chains that begin with the same layer, which a build knows of its base image."""
    return f"{SCOPE}{bottom or _SCRATCH}:{hex_of(place)[0]}"


def newest(layers: Iterable[KnownLayer]) -> list[KnownLayer]:
    """As many of one place as are considered, the newest first."""
    return sorted(layers, key=lambda layer: (moment(layer.created), layer.diff_id, layer.image), reverse=True)[
        :CANDIDATES
    ]


# -- documents ---------------------------------------------------------------------------------------------------------


def write_document(place: Digest, layers: Sequence[KnownLayer]) -> CacheRecord:
    """`layers`: at least one, the newest at `place` first."""
    return CacheRecord(
        key=place,
        parent=None,
        instruction=f"layers built elsewhere: {len(layers)}, such as one of {layers[0].image}",
        layer=None,
        created=layers[0].created,
        seconds=0.0,
        scope=layers[0].scope,
        inputs={"version": LAYOUT, "content": pack([layer.to_row() for layer in layers])},
    )


def read_document(record: CacheRecord | None) -> tuple[KnownLayer, ...]:
    """Nothing where there is no document, or one that is damaged or of another layout."""
    if record is None or record.inputs.get("version") != LAYOUT:
        return ()
    try:
        return read_rows(unpack(record.inputs["content"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def read_rows(rows: Iterable[Sequence[Any]]) -> tuple[KnownLayer, ...]:
    """Raises ValueError, KeyError, TypeError, AttributeError."""
    return tuple(KnownLayer.from_row(row) for row in rows)


def pack(value: list[Any] | Mapping[str, Any]) -> str:
    """JSON in few characters, none of which JSON escapes: stores put it into JSON again."""
    raw = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack(text: str) -> Any:
    """Raises ValueError for what was not packed."""
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        if not unpacker.eof:
            raise ValueError("cut short, or too large")
        return json.loads(raw)
    except (binascii.Error, zlib.error, RecursionError) as error:
        raise ValueError(f"not packed: {error}") from error
