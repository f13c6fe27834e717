"""The table of contents of a layer: every path it holds, enough to answer what a COPY needs without the files."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType

#: of a table of contents as a blob
MEDIA_TYPE = "application/vnd.ci-plugins.toc.v1+zstd"
#: Files whose contents are kept in a TOC: users and groups are looked up by name without a pull.
KEPT = frozenset({"etc/passwd", "etc/group"})
#: A kept file is held in memory whole; a larger one is not a user database.
KEPT_LIMIT = 8 << 20

_MAGIC = b"ci-plugins-toc 1\n"
_NONE: Mapping[str, bytes] = MappingProxyType({})
_TYPES: Mapping[str, EntryType] = {kind.value: kind for kind in EntryType}
#: A TOC larger than this is damaged: the limits of extraction end far below.
_MAX_RAW = 2 << 30


@dataclass(frozen=True, slots=True)
class Toc:
    """Entries sorted by path, one a path; a directory that is opaque has an OPAQUE entry right after its own.

    `kept` holds the whole contents of `KEPT` files this layer has as regular files.
    """

    entries: tuple[Entry, ...]
    kept: Mapping[str, bytes] = field(default_factory=lambda: _NONE)

    def implied_parents(self) -> tuple[str, ...]:
        """Directories that have no entry although something below them has, parents first; "" is the root.

        In a snapshot they exist and must look as in the layers below (`adopt.adopt_parents`).
        """
        present = {entry.path for entry in self.entries if entry.type is EntryType.DIRECTORY}
        implied: set[str] = set()
        below = {entry.path if entry.type is EntryType.OPAQUE else _parent(entry.path) for entry in self.entries}
        for path in below:
            while path not in present and path not in implied:
                implied.add(path)
                path = _parent(path)
        if "" not in present:
            implied.add("")
        return tuple(sorted(implied))

    def missing_links(self) -> tuple[tuple[str, str], ...]:
        """(path, target) of hard links whose target is in no entry: a file of the layers below."""
        links = [entry for entry in self.entries if entry.type is EntryType.HARDLINK]
        if not links:
            return ()
        present = {entry.path for entry in self.entries if entry.type is not EntryType.OPAQUE}
        return tuple((link.path, link.link) for link in links if link.link not in present)

    def to_bytes(self) -> bytes:
        """A version line and one zstd frame: columns compress well and load fast."""
        import zstandard

        entries = self.entries
        numbers = [
            array("q", [entry.mode for entry in entries]),
            array("q", [entry.uid for entry in entries]),
            array("q", [entry.gid for entry in entries]),
            array("q", [entry.size for entry in entries]),
            array("q", [entry.mtime_ns for entry in entries]),
        ]
        if sys.byteorder == "big":
            for column in numbers:
                column.byteswap()
        header = {
            "count": len(entries),
            "types": "".join([entry.type.value for entry in entries]),
            "devices": {str(i): list(e.device) for i, e in enumerate(entries) if e.device != (0, 0)},
            "xattrs": {
                str(i): {name: value.hex() for name, value in e.xattrs.items()}
                for i, e in enumerate(entries)
                if e.xattrs
            },
            "kept": {path: content.hex() for path, content in self.kept.items()},
        }
        texts = "\0".join([entry.path for entry in entries]), "\0".join([entry.link for entry in entries])
        sections = [
            json.dumps(header, separators=(",", ":")).encode(),
            *(text.encode("utf-8", "surrogateescape") for text in texts),
            *(column.tobytes() for column in numbers),
        ]
        raw = b"".join(part for section in sections for part in (len(section).to_bytes(8, "little"), section))
        return _MAGIC + zstandard.ZstdCompressor(level=3, write_checksum=True).compress(raw)

    @classmethod
    def from_bytes(cls, data: bytes) -> Toc:
        """Raises CorruptLayer for what `to_bytes` of this version did not write."""
        if not data.startswith(_MAGIC):
            raise CorruptLayer("not a layer's table of contents, or of another version", remedy=_REMEDY)
        try:
            return cls._decode(_decompress(data[len(_MAGIC) :]))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise CorruptLayer(f"a layer's table of contents is damaged: {error}", remedy=_REMEDY) from error

    @classmethod
    def _decode(cls, raw: bytes) -> Toc:
        sections = _sections(raw)
        header: dict[str, Any] = json.loads(sections[0])
        count = int(header["count"])
        paths, links = (
            section.decode("utf-8", "surrogateescape").split("\0") if count else [] for section in sections[1:3]
        )
        columns = [_numbers(section) for section in sections[3:8]]
        types = [_TYPES[letter] for letter in header["types"]]
        if {len(paths), len(links), len(types), *map(len, columns)} != {count}:
            raise ValueError("columns differ in length")
        devices = {int(i): (int(major), int(minor)) for i, (major, minor) in header["devices"].items()}
        xattrs = {
            int(i): MappingProxyType({name: bytes.fromhex(value) for name, value in values.items()})
            for i, values in header["xattrs"].items()
        }
        entries = list(map(Entry, paths, types, *columns, links))
        for i in devices.keys() | xattrs.keys():
            plain = entries[i]
            entries[i] = Entry(
                plain.path,
                plain.type,
                plain.mode,
                plain.uid,
                plain.gid,
                plain.size,
                plain.mtime_ns,
                plain.link,
                devices.get(i, (0, 0)),
                xattrs.get(i, _NONE),
            )
        kept = {path: bytes.fromhex(content) for path, content in header["kept"].items()}
        return cls(tuple(entries), MappingProxyType(kept))


_REMEDY = "Delete the cached record; it is made again from the layer."


def sorted_entries(entries: Iterable[Entry], opaque: Iterable[str]) -> tuple[Entry, ...]:
    """The order of `Toc.entries`: by path, an OPAQUE entry for each opaque directory after the directory's own."""
    markers = [Entry(path, EntryType.OPAQUE) for path in opaque]
    # Sorting keeps the order of equals: the markers come last.
    return tuple(sorted([*entries, *markers], key=attrgetter("path")))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _decompress(frame: bytes) -> bytes:
    import zstandard

    try:
        if not 0 <= zstandard.frame_content_size(frame) <= _MAX_RAW:
            raise ValueError("no plausible size")
        return zstandard.ZstdDecompressor().decompress(frame)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(str(error)) from error


def _sections(raw: bytes) -> list[bytes]:
    sections, at = [], 0
    for _ in range(8):
        end = at + 8 + int.from_bytes(raw[at : at + 8], "little")
        if end > len(raw):
            raise ValueError("cut short")
        sections.append(raw[at + 8 : end])
        at = end
    if at != len(raw):
        raise ValueError("too long")
    return sections


def _numbers(section: bytes) -> Sequence[int]:
    column = array("q")
    column.frombytes(section)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()
