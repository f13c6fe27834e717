"""What this machine knows of a mount's copy in a shared store: so that unchanged files are neither read nor sent.

The file `known` of a slot begins with a line of JSON, which is enough to see that nothing has changed; what follows is
zstd-compressed JSON, as in an index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ci_plugins.errors import state_errors
from ci_plugins.mounts.index import DamagedIndex, MountIndex, pack_json, unpack_json
from ci_plugins.mounts.listing import Found, Signature, state_of


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in `store` under `name` was put there at `saved` (seconds since the epoch); `state` is the directory's,
    as `state_of` gives it, when that was what it held.

    `stamp` is the store's index that has nothing but what the directory had then; "" if there is none. `seen` is the
    stamp of the one that the directory was last compared with, to see what it lacks.
    """

    store: str
    name: str
    saved: int
    state: str
    stamp: str
    seen: str

    @classmethod
    def read(cls, slot: Path) -> Summary | None:
        """None where there is none, or none that can be used."""
        try:
            with (slot / "known").open("rb") as file:
                value = json.loads(file.readline())
            named = (str(value[name]) for name in ("state", "stamp", "seen"))
            return cls(str(value["store"]), str(value["name"]), int(value["saved"]), *named)
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Known:
    """`index` is what the summary speaks of; `signatures` are those its files had then."""

    summary: Summary
    index: MountIndex
    signatures: Mapping[str, Signature]

    @classmethod
    def of(cls, store: str, name: str, index: MountIndex, listing: Sequence[Found], stamp: str) -> Known:
        saved = {node.path for node in index.nodes}
        signatures = {one.path: one.signature for one in listing if one.path in saved}
        return cls(Summary(store, name, index.saved, state_of(listing), stamp, stamp), index, signatures)

    @classmethod
    def none(cls, store: str, name: str) -> Known:
        """Of a directory that did not come from the store, and never went there."""
        return cls(Summary(store, name, 0, "", "", ""), MountIndex("", 0, (), ()), {})

    @classmethod
    def read(cls, slot: Path) -> Known | None:
        """None where there is none, or none that can be used."""
        summary = Summary.read(slot)
        if summary is None:
            return None
        try:
            value = unpack_json((slot / "known").read_bytes().partition(b"\n")[2])
            signatures = {path: (int(a), int(b), int(c), int(d)) for path, (a, b, c, d) in value["signatures"].items()}
            index = MountIndex.from_json(value["index"])
            return cls(summary, index, signatures)
        except (OSError, DamagedIndex, KeyError, TypeError, ValueError, AttributeError):
            return None

    def write(self, slot: Path) -> None:
        """Raises DiskFull, StateError."""
        head = json.dumps(asdict(self.summary)).encode() + b"\n"
        body = pack_json({"index": self.index.to_json(), "signatures": self.signatures})
        path, temporary = slot / "known", slot / f"known.{os.urandom(4).hex()}"
        with state_errors(path):
            try:
                temporary.write_bytes(head + body)
                os.replace(temporary, path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
