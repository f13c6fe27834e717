"""ADD of a local tar archive, plain or compressed: recognised by its content, extracted into the destination.

As BuildKit does it (solver/llbsolver/file, unpack): members keep their owners unless --chown is given, --chmod does not
apply; symlinks of the archive and of the destination are followed inside the destination; directories merge, anything
else is replaced; parents the archive leaves out are made with mode 0755 for root.
"""

from __future__ import annotations

import io
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import IO, BinaryIO, Literal

from ci_plugins.errors import ContextError, CorruptLayer, state_errors
from ci_plugins.layer.compress import decompress
from ci_plugins.layer.copy_output import Output
from ci_plugins.layer.copy_request import Content
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.tar_read import TarReader
from ci_plugins.layer.tree import resolve_links

_BLOCK = 1 << 20
_RECORD = 512


def open_archive(name: str, content: Content) -> Archive | None:
    """The archive that a file is, or None for a file that is none: its first record tells, as in BuildKit."""
    from tarfile import HeaderError, TarInfo

    file = _open(content)
    try:
        TarInfo.frombuf(_first_record(file.read(_BLOCK)), "utf-8", "surrogateescape")
    except (HeaderError, CorruptLayer):
        file.close()
        return None
    file.seek(0)
    return Archive(name, file)


class Archive:
    """An archive that is being read once, front to back."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file

    def extract(self, output: Output, directory: str, owner: tuple[int, int] | None) -> None:
        """Put every member below `directory`, which exists. Raises ContextError for a damaged archive, BuildError."""
        spool = _Spool()
        with self._file:
            reader = TarReader(_blocks(self._file))
            try:
                for entry in reader:
                    content = spool.add(reader.content()) if entry.type is EntryType.FILE and entry.size else None
                    self._member(output, directory, owner, entry, content)
            except CorruptLayer as error:
                raise ContextError(
                    f"{self._name} cannot be unpacked: {error}",
                    remedy="Pack the archive again, or copy it as a file with COPY.",
                ) from error

    def _member(
        self, output: Output, directory: str, owner: tuple[int, int] | None, entry: Entry, content: Content | None
    ) -> None:
        if not entry.path:
            return
        path = _inside(output, directory, entry.path, entry.type is EntryType.DIRECTORY)
        if path == directory:
            return
        output.make_directories(posixpath.dirname(path), 0o755, (0, 0), entry.mtime_ns)
        existing = output.lookup(path)
        merges = existing is not None and existing.type is EntryType.DIRECTORY and entry.type is EntryType.DIRECTORY
        if existing is not None and not merges:
            output.remove(path)
        uid, gid = owner or (entry.uid, entry.gid)
        landed = replace(entry, path=path, uid=uid, gid=gid)
        if entry.type is EntryType.HARDLINK:
            output.link(landed, _inside(output, directory, entry.link, follow_last=False))
        else:
            output.put(landed, content)


def _inside(output: Output, directory: str, path: str, follow_last: bool) -> str:
    def target_of(candidate: str) -> str | None:
        found = output.lookup(posixpath.join(directory, candidate))
        return found.link if found is not None and found.type is EntryType.SYMLINK else None

    return posixpath.join(directory, resolve_links(path, target_of, follow_last)).rstrip("/")


class _Spool:
    """Contents of the members, one after another in an unnamed file that lives as long as something reads from it."""

    def __init__(self) -> None:
        with state_errors(tempfile.gettempdir()):
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._size = 0

    def add(self, pieces: Iterable[bytes | bytearray | memoryview]) -> Callable[[], BinaryIO]:
        begin = self._size
        for piece in pieces:
            view = memoryview(piece)
            self._size += len(view)
            with state_errors(tempfile.gettempdir()):
                while view:
                    view = view[self._file.write(view) :]
        end = self._size
        return lambda: io.BufferedReader(_Range(self._file, begin, end), _BLOCK)


class _Range(io.RawIOBase):
    """A part of a file, read without moving its position: many threads may."""

    def __init__(self, file: IO[bytes], begin: int, end: int) -> None:
        self._source = file
        self._at = begin
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = os.pread(self._source.fileno(), min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


# --- reading the file -----------------------------------------------------------------------------------------------


def _open(content: Content) -> IO[bytes]:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return content() if callable(content) else open(content, "rb", buffering=0)


_Kind = Literal["gzip", "zstd", "bzip2", "xz", "none"]
_MAGIC: tuple[tuple[_Kind, bytes], ...] = (
    ("gzip", b"\x1f\x8b\x08"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
    ("bzip2", b"BZh"),
    ("xz", b"\xfd7zXZ\0"),
)


def _kind(beginning: bytes) -> _Kind:
    return next((kind for kind, magic in _MAGIC if beginning.startswith(magic)), "none")


def _first_record(data: bytes) -> bytes:
    """The first 512 bytes of a file, uncompressed, of which `data` is the beginning: less if there is less."""
    kind = _kind(data)
    try:
        if kind == "gzip":
            import zlib

            return zlib.decompressobj(wbits=31).decompress(data, _RECORD)
        if kind == "bzip2":
            import bz2

            return bz2.BZ2Decompressor().decompress(data, _RECORD)
        if kind == "xz":
            import lzma

            return lzma.LZMADecompressor().decompress(data, _RECORD)
        if kind == "zstd":
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(data).read(_RECORD)
    except Exception as error:
        raise CorruptLayer(f"the compressed data is damaged: {error}") from error
    return data[:_RECORD]


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The file's bytes from its beginning, uncompressed. Raises CorruptLayer."""
    kind = _kind(file.read(6))
    file.seek(0)
    if kind == "bzip2":
        import bz2

        return _read(bz2.BZ2File(file))
    if kind == "xz":
        import lzma

        return _read(lzma.LZMAFile(file))
    stored = iter(lambda: file.read(_BLOCK), b"")
    return decompress(stored, kind)


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    from lzma import LZMAError

    try:
        while block := stream.read(_BLOCK):
            yield block
    except (OSError, EOFError, LZMAError) as error:
        raise CorruptLayer(f"the compressed data is damaged: {error}") from error
