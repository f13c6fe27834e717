"""The files of a COPY as one short string, so that a later build can say which of them changed.

zstd over: the number of entries (4 bytes, big endian), their names in order, each ended by a zero byte, then their
marks (`CopySources.files`). In base64, for JSON.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from ci_plugins.layer.copy_digest import MARK_SIZE

#: A longer table is left out: it would cost every look-up more than it ever tells.
LONGEST = 48 << 10
#: Marks do not compress, and a name takes a byte at least: more files than this cannot fit.
MOST_FILES = LONGEST * 3 // 4 // (MARK_SIZE + 1)
#: A table that claims to unpack to more is damaged.
_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Paths in order. `total` counts the files there are now, directories left out."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    modified: tuple[str, ...]
    total: int

    @property
    def count(self) -> int:
        return len(self.added) + len(self.removed) + len(self.modified)


def encode(files: Mapping[str, bytes]) -> str:
    """Empty if it would be too long."""
    import zstandard

    if len(files) > MOST_FILES:
        return ""
    names = sorted(files)
    raw = b"".join(
        [
            len(names).to_bytes(4, "big"),
            *(name.encode("utf-8", "surrogateescape") + b"\0" for name in names),
            *(files[name] for name in names),
        ]
    )
    text = base64.b64encode(zstandard.ZstdCompressor(level=9).compress(raw)).decode()
    return text if len(text) <= LONGEST else ""


def decode(text: str) -> Mapping[str, bytes]:
    """Raises ValueError for what is no table."""
    import zstandard

    try:
        packed = base64.b64decode(text, validate=True)
        if zstandard.frame_content_size(packed) > _MOST_BYTES:
            raise ValueError("a table of files that is too large")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_BYTES)
    except (binascii.Error, zstandard.ZstdError) as error:
        raise ValueError(f"not a table of files: {error}") from error
    count = int.from_bytes(raw[:4], "big")
    *names, marks = raw[4:].split(b"\0", count)
    if len(raw) < 4 or len(names) != count or len(marks) != count * MARK_SIZE:
        raise ValueError("not a table of files: it was cut short")
    ordered = [name.decode("utf-8", "surrogateescape") for name in names]
    return {name: marks[n * MARK_SIZE : (n + 1) * MARK_SIZE] for n, name in enumerate(ordered)}


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> FileChanges:
    """Directories count only where nothing else has changed: they appear and go with what they hold."""
    changes = _compare(_without_directories(before), _without_directories(after))
    return changes if changes.count else _compare(before, after)


def _compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> FileChanges:
    return FileChanges(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name])),
        len(_without_directories(after)),
    )


def _without_directories(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {name: mark for name, mark in files.items() if not name.endswith("/")}
