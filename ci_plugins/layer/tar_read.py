"""A tar stream read member by member: v7, ustar, GNU and PAX headers, sparse files.

Where readers differ, this one follows Go's archive/tar, which Docker, containerd and registries' scanners use: a
layer must not hold other files here than there. Global PAX headers are read and have no effect, header-only members
(links, devices, directories) have no content whatever their size field says.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.names import clean
from ci_plugins.layer.tar import Buffer
from ci_plugins.layer.tar_fields import (
    Pax,
    nanoseconds,
    number,
    pax_number,
    pax_records,
    pax_text,
    pax_time,
    pax_xattrs,
    text,
)
from ci_plugins.layer.tar_sparse import Segment, expand, gnu_map, pax_map, pax_map_in_data, pax_version

_RECORD = 512
_ZEROS = bytes(_RECORD)
#: Go's limit for what one PAX or GNU long-name member may hold.
_MAX_SPECIAL = 1 << 20
#: -1 as a user id means "leave it" to chown.
_NOBODY = (1 << 32) - 1
_USTAR = b"ustar\0"
_NONE: Mapping[str, bytes] = MappingProxyType({})

# name mode uid gid size mtime checksum type link magic+version uname gname devmajor devminor prefix
_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x").unpack
_TYPES = {
    b"0": EntryType.FILE,
    b"\0": EntryType.FILE,
    b"7": EntryType.FILE,
    b"S": EntryType.FILE,
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHARACTER,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
}
_DEVICES = (EntryType.CHARACTER, EntryType.BLOCK)


class TarReader:
    """Iterate for the members' entries; `content` gives the bytes of the one yielded last.

    Names are cleaned (`names.clean`), whiteouts are still files named `.wh.…`. All blocks are taken from `blocks` by
    the time the iterator ends, so that who counts or hashes them sees the whole stream.
    Everything that is wrong with the archive raises CorruptLayer.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = b""
        self._at = 0
        #: bytes of content and padding of the current member that nobody took yet
        self._left = 0
        self._padding = 0
        self._sparse: list[Segment] | None = None
        self._size = 0

    def __iter__(self) -> Iterator[Entry]:
        pax: Pax = {}
        long_name = long_link = ""
        while (header := self._next_header()) is not None:
            fields = _FIELDS(header)
            flag = fields[7]
            if flag in b"xgLK":
                data = self._special(fields[4])
                if flag == b"x":
                    pax = pax_records(data)
                elif flag == b"L":
                    long_name = text(data)
                elif flag == b"K":
                    long_link = text(data)
                continue
            yield self._member(header, fields, pax, long_name, long_link)
            self._skip(self._left + self._padding)
            pax, long_name, long_link = {}, "", ""
        for _ in self._blocks:
            pass

    @property
    def size(self) -> int:
        """Bytes that `content` gives (of a sparse file with its holes)."""
        return self._size

    def content(self) -> Iterable[Buffer]:
        """The current member's bytes in pieces of at most a block. To be taken once, before the next member."""
        if self._sparse is not None:
            return expand(self._sparse, self._size, self._stored())
        if self._left == 0:
            return ()
        end = self._at + self._left
        if end <= len(self._block):
            piece = memoryview(self._block)[self._at : end]
            self._at, self._left = end, 0
            return (piece,)
        return self._stored()

    # -- headers -------------------------------------------------------------------------------------------------------

    def _member(self, header: bytes, fields: tuple[bytes, ...], pax: Pax, long_name: str, long_link: str) -> Entry:
        flag, magic = fields[7], fields[9]
        name, link = text(fields[0]), text(fields[8])
        if magic.startswith(_USTAR) and fields[14][0]:
            name = f"{text(fields[14])}/{name}"
        size, mtime_ns = number(fields[4]), nanoseconds(number(fields[5]))
        uid, gid = number(fields[2]), number(fields[3])
        xattrs = _NONE
        if pax:
            name, link = pax_text(pax, "path", name), pax_text(pax, "linkpath", link)
            size, uid, gid = pax_number(pax, "size", size), pax_number(pax, "uid", uid), pax_number(pax, "gid", gid)
            mtime_ns = pax_time(pax, mtime_ns)
            xattrs = pax_xattrs(pax)
        name, link = long_name or name, long_link or link
        kind = _kind(flag, name)
        if kind is not EntryType.FILE:
            size = 0
        if size < 0 or not 0 <= uid < _NOBODY or not 0 <= gid < _NOBODY:
            raise CorruptLayer(f"the archive has an impossible size or owner at {name!r}")
        self._left, self._padding, self._size = size, -size % _RECORD, size
        self._sparse = None
        if kind is EntryType.FILE and (flag == b"S" or pax):
            name = self._open_sparse(header, flag, name, pax)
        if kind is EntryType.HARDLINK:
            link = clean(link)
        elif kind is not EntryType.SYMLINK:
            link = ""
        elif not link:
            raise CorruptLayer(f"the archive's symlink {name!r} has no target")
        device = _device(fields) if kind in _DEVICES else (0, 0)
        mode = number(fields[1]) & 0o7777
        return Entry(clean(name), kind, mode, uid, gid, self._size, mtime_ns, link, device, xattrs)

    def _open_sparse(self, header: bytes, flag: bytes, name: str, pax: Pax) -> str:
        """Prepare `content` for a sparse file; its name, which PAX keeps apart from the one for old readers."""
        if flag == b"S":
            self._sparse, self._size = gnu_map(header, lambda: self._take(_RECORD))
            return name
        version = pax_version(pax)
        if not version:
            return name
        self._sparse = pax_map_in_data(self._map_record) if version == "1.0" else pax_map(pax)
        self._size = pax_number(pax, "GNU.sparse.size", pax_number(pax, "GNU.sparse.realsize", self._size))
        return pax_text(pax, "GNU.sparse.name", name)

    def _map_record(self) -> bytes:
        if self._left < _RECORD:
            raise CorruptLayer("the archive's sparse map is cut short")
        self._left -= _RECORD
        return self._take(_RECORD)

    def _next_header(self) -> bytes | None:
        """The next header block; None at the end of the archive."""
        header = self._take(_RECORD, at_end=True)
        if not header:
            return None
        if header == _ZEROS:
            second = self._take(_RECORD, at_end=True)
            if second and second != _ZEROS:
                raise CorruptLayer("the archive goes on after its end")
            return None
        stored = number(header[148:156])
        spaces = 8 * 0x20
        # The byte sum at C speed (modulo 65521); a header above that is summed for good.
        fast = (zlib.adler32(header[156:], zlib.adler32(header[:148], 0) & 0xFFFF) & 0xFFFF) + spaces
        if fast != stored:
            rest = header[:148] + header[156:]
            unsigned = sum(rest) + spaces
            if stored not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
                raise CorruptLayer("the archive has a header whose checksum is wrong")
        return header

    def _special(self, size_field: bytes) -> bytes:
        size = number(size_field)
        if not 0 <= size <= _MAX_SPECIAL:
            raise CorruptLayer(f"the archive has an extended header of {size} bytes")
        return self._take(size + -size % _RECORD)[:size]

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _take(self, count: int, at_end: bool = False) -> bytes:
        """Exactly so many bytes, over block borders; b"" if the stream ends right here and that is allowed."""
        end = self._at + count
        if end <= len(self._block):
            data = self._block[self._at : end]
            self._at = end
            return data
        parts, missing = [self._block[self._at :]], end - len(self._block)
        while missing > 0:
            self._block, self._at = next(self._blocks, b""), 0
            if not self._block:
                # An empty block in the middle is no end: ask until there is one.
                rest = next((block for block in self._blocks if block), b"")
                if not rest:
                    if at_end and missing == count:
                        return b""
                    raise CorruptLayer("the archive is cut short")
                self._block = rest
            self._at = min(missing, len(self._block))
            parts.append(self._block[: self._at])
            missing -= self._at
        return b"".join(parts)

    def _stored(self) -> Iterator[Buffer]:
        while self._left:
            yield self._piece(self._left)

    def _piece(self, most: int) -> Buffer:
        while self._at >= len(self._block):
            block = next(self._blocks, None)
            if block is None:
                raise CorruptLayer("the archive is cut short")
            self._block, self._at = block, 0
        piece = memoryview(self._block)[self._at : self._at + most]
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    def _skip(self, count: int) -> None:
        end = self._at + count
        if end <= len(self._block):
            self._at = end
        else:
            self._left = count
            for _ in self._stored():
                pass
        self._left = self._padding = 0


def _kind(flag: bytes, name: str) -> EntryType:
    kind = _TYPES.get(flag)
    if kind is None:
        raise CorruptLayer(f"the archive has a member of unknown type {flag!r}: {name!r}")
    # Before ustar had a type for them, directories were files whose name ends so.
    return EntryType.DIRECTORY if flag == b"\0" and name.endswith("/") else kind


def _device(fields: tuple[bytes, ...]) -> tuple[int, int]:
    major, minor = number(fields[12]), number(fields[13])
    if not 0 <= major < 1 << 12 or not 0 <= minor < 1 << 20:
        raise CorruptLayer(f"the archive has a device number that does not exist: {major}:{minor}")
    return major, minor
