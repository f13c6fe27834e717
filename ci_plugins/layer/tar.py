"""The tar stream of a layer: ustar headers, PAX records where ustar is too small (POSIX.1-2017, pax, "ustar
Interchange Format" and "pax Header Block").

The same items give the same bytes. Times are whole seconds, as BuildKit and containerd write them: a PAX record for
each file would cost a kilobyte a file. Holes of sparse files are written as the zero bytes they read as.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ci_plugins.errors import ContextChanged, ContextError
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.names import OPAQUE_MARKER, WHITEOUT_PREFIX

Buffer = bytes | memoryview

#: Blocks of the stream are about this large; only a file smaller than this is read in one go.
BLOCK = 1 << 20

_RECORD = 512
_ZEROS = bytes(_RECORD)
_TYPE_FLAGS = {
    EntryType.FILE: b"0",
    EntryType.HARDLINK: b"1",
    EntryType.SYMLINK: b"2",
    EntryType.CHARACTER: b"3",
    EntryType.BLOCK: b"4",
    EntryType.DIRECTORY: b"5",
    EntryType.FIFO: b"6",
    EntryType.WHITEOUT: b"0",
    EntryType.OPAQUE: b"0",
}
_MAX_ID = 0o7777777
_MAX_LONG = 0o77777777777
#: magic, version, and no user or group name: ids are what counts in a layer
_MAGIC = b"ustar\00000" + bytes(64)
#: what `_OPEN` answers where a symlink, a directory or nothing stands in a file's place
_NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENOENT, errno.ENOTDIR)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


#: what ends an archive
END = bytes(2 * _RECORD)


def write_tar(items: Iterable[Item]) -> Iterator[Buffer]:
    """A whole archive in blocks of about a MiB. Raises as `write_members` does."""
    yield from write_members(items)
    yield END


def write_members(items: Iterable[Item]) -> Iterator[Buffer]:
    """An archive without its end, in blocks of about a MiB, small members gathered. Parents must come before their
    children.

    Raises ContextChanged when a file is gone or not `entry.size` bytes long, ContextError when it cannot be read or
    cannot be stored in a layer.
    """
    parts: list[Buffer] = []
    gathered = 0
    for item in items:
        entry = item.entry
        header = member_header(entry)
        parts.append(header)
        gathered += len(header)
        if size := _content_size(entry):
            if size <= BLOCK:
                content = read_whole(item)
                parts.append(content)
                gathered += size
            else:
                for block in _read_large(item, size):
                    parts.append(block)
                    gathered += len(block)
                    if gathered >= BLOCK:
                        yield _joined(parts)
                        parts, gathered = [], 0
            if padding := -size % _RECORD:
                parts.append(_ZEROS[:padding])
                gathered += padding
        if gathered >= BLOCK:
            yield _joined(parts)
            parts, gathered = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[Buffer]) -> Buffer:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _content_size(entry: Entry) -> int:
    return entry.size if entry.type is EntryType.FILE else 0


# -- headers -----------------------------------------------------------------------------------------------------------


def member_header(entry: Entry) -> bytes:
    """The header block of one member, after its PAX header if it needs one."""
    name, link = _member_name(entry), entry.link.encode("utf-8", "surrogateescape")
    size, mtime = _content_size(entry), entry.mtime_ns // 1_000_000_000
    records: list[tuple[str, bytes]] = []
    prefix = b""
    if len(name) > 100 or not name.isascii():
        prefix, short = _split(name)
        if not short:
            records.append(("path", name))
            short = _ascii(name)[:100]
        name = short
    if len(link) > 100 or not link.isascii():
        records.append(("linkpath", link))
        link = _ascii(link)[:100]
    uid, gid = entry.uid, entry.gid
    if uid > _MAX_ID:
        records.append(("uid", b"%d" % uid))
        uid = 0
    if gid > _MAX_ID:
        records.append(("gid", b"%d" % gid))
        gid = 0
    if size > _MAX_LONG:
        records.append(("size", b"%d" % size))
        size = 0
    if not 0 <= mtime <= _MAX_LONG:
        records.append(("mtime", b"%d" % mtime))
        mtime = 0
    if entry.xattrs:
        records.extend(_xattr_records(entry))
    header = _block(name, entry.mode, uid, gid, size, mtime, _TYPE_FLAGS[entry.type], link, entry.device, prefix)
    return _pax_member(name, records) + header if records else header


def _member_name(entry: Entry) -> bytes:
    path, kind = entry.path, entry.type
    if WHITEOUT_PREFIX in path and any(part.startswith(WHITEOUT_PREFIX) for part in path.split("/")):
        raise ContextError(
            f"{path!r} cannot be stored in an image: a name that begins with {WHITEOUT_PREFIX!r} means a deleted file",
            remedy="Rename or remove the file.",
        )
    if kind is EntryType.DIRECTORY:
        path += "/" if path else "./"
    elif kind is EntryType.WHITEOUT:
        parent, slash, name = path.rpartition("/")
        path = f"{parent}{slash}{WHITEOUT_PREFIX}{name}"
    elif kind is EntryType.OPAQUE:
        path = f"{path}/{OPAQUE_MARKER}" if path else OPAQUE_MARKER
    return path.encode("utf-8", "surrogateescape")


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    flag: bytes,
    link: bytes,
    device: tuple[int, int],
    prefix: bytes,
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    rest = flag + link.ljust(100, b"\0") + _MAGIC + b"%07o\0%07o\0" % device + prefix.ljust(167, b"\0")
    # The sum of all bytes, the checksum itself taken as spaces. Adler-32's low half is a byte sum modulo 65521, at
    # C speed; a header of ASCII fields stays below that.
    checksum = (zlib.adler32(rest, zlib.adler32(head, 0) & 0xFFFF) & 0xFFFF) + 8 * 0x20
    return b"%b%06o\0 %b" % (head, checksum, rest)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """ustar's prefix and name; the name is empty if they cannot hold it."""
    if len(name) <= 256 and name.isascii():
        at = name.find(b"/", len(name) - 101)
        if 0 < at <= 155 and at < len(name) - 1:
            return name[:at], name[at + 1 :]
    return b"", b""


def _ascii(name: bytes) -> bytes:
    return name.decode("ascii", "replace").replace("�", "?").encode()


def _xattr_records(entry: Entry) -> Iterator[tuple[str, bytes]]:
    for name, value in sorted(entry.xattrs.items()):
        if "=" in name:
            raise ContextError(f"{entry.path!r} has the extended attribute {name!r}, which a PAX header cannot name")
        yield f"SCHILY.xattr.{name}", value


def _pax_member(name: bytes, records: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(_pax_record(key.encode("utf-8", "surrogateescape"), value) for key, value in records)
    base = b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:87]
    header = _block(base, 0o644, 0, 0, len(body), 0, b"x", b"", (0, 0), b"")
    return header + body + _ZEROS[: -len(body) % _RECORD]


def _pax_record(key: bytes, value: bytes) -> bytes:
    # The length counts its own digits.
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


# -- contents ----------------------------------------------------------------------------------------------------------


def read_whole(item: Item) -> bytes:
    """A small file's content, checked to be `entry.size` bytes. Raises as `write_tar` does."""
    content, size = item.content, item.entry.size
    # By one read where possible: one byte more than expected is asked for, to see a file that grew.
    if isinstance(content, bytes):
        data = content
    elif callable(content):
        with content() as stream:
            data = b"".join(_blocks_of(stream, size + 1))
    else:
        fd = _open(item)
        try:
            data = os.read(fd, size + 1)
            while 0 < len(data) < size and (more := os.read(fd, size + 1 - len(data))):
                data += more
        except OSError as error:
            raise _unreadable(item, error) from error
        finally:
            os.close(fd)
    if len(data) != size:
        raise _changed(item)
    return data


def _read_large(item: Item, size: int) -> Iterator[Buffer]:
    content = item.content
    if isinstance(content, bytes):
        if len(content) != size:
            raise _changed(item)
        view = memoryview(content)
        yield from (view[at : at + BLOCK] for at in range(0, size, BLOCK))
        return
    if callable(content):
        with content() as stream:
            yield from _exactly(item, size, _blocks_of(stream, size + 1))
        return
    fd = _open(item)
    try:
        yield from _exactly(item, size, _blocks_of_fd(item, fd))
    finally:
        os.close(fd)


def _exactly(item: Item, size: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    left = size
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise _changed(item)
        yield block
    if left:
        raise _changed(item)


def _blocks_of(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    while limit and (block := stream.read(min(limit, BLOCK))):
        limit -= len(block)
        yield block


def _blocks_of_fd(item: Item, fd: int) -> Iterator[bytes]:
    try:
        while block := os.read(fd, BLOCK):
            yield block
    except OSError as error:
        raise _unreadable(item, error) from error


def _open(item: Item) -> int:
    path = item.content
    if path is None or callable(path) or isinstance(path, bytes):
        raise _changed(item)
    try:
        return os.open(path, _OPEN)
    except OSError as error:
        raise _unreadable(item, error) from error


def _unreadable(item: Item, error: OSError) -> ContextError:
    if error.errno in _NOT_A_FILE:
        return _changed(item)
    return ContextError(f"cannot read {item.content!s} for the layer: {error.strerror or error}")


def _changed(item: Item) -> ContextChanged:
    return ContextChanged(f"{item.entry.path} changed while it was read into a layer")
