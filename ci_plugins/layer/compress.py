"""gzip (RFC 1952) and zstd (RFC 8878), cut so that all cores can work on one layer.

A layer is compressed in chunks of `CHUNK` bytes, each a gzip member or zstd frame of its own: both formats say that
such pieces in a row are one file, and every consumer of images reads them so. Where the cuts are depends on the input
alone: the same tar gives the same bytes on any number of cores. But for gzip 1 and 2: what ISA-L finds there to refer
back to can depend on the memory it was given, in one chunk of some thousands; it is as valid, but another digest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, Literal, Protocol, cast

from ci_plugins.errors import ConfigError, CorruptLayer
from ci_plugins.layer.tar import Buffer
from ci_plugins.oci import media

Kind = Literal["gzip", "zstd", "none"]

#: Uncompressed bytes of one member or frame: zstd's window at level 3, so that cutting costs about 1 %.
CHUNK = 2 << 20

_BLOCK = 1 << 20
#: isal's levels; above, zlib takes over. (default, lowest, highest) by kind
_LEVELS = {"gzip": (1, 0, 9), "zstd": (3, 1, 22), "none": (0, 0, 0)}
_ISAL_HIGHEST = 3
#: windowBits that make zlib write a gzip header (modification time 0) and trailer
_GZIP = 31

_local = threading.local()


@dataclass(frozen=True, slots=True)
class Compression:
    """How a layer is written. `level` None is the default of the kind: gzip 1, zstd 3.

    gzip 0 to 3 are ISA-L's levels (fast), 4 to 9 are zlib's (smaller, up to 15 times slower); zstd 1 to 22.
    Raises ConfigError.
    """

    kind: Kind
    level: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _LEVELS:
            raise ConfigError(f"unknown compression {self.kind!r}", remedy="Use gzip, zstd or none.")
        _, lowest, highest = _LEVELS[self.kind]
        if not lowest <= self.effective_level <= highest:
            raise ConfigError(
                f"{self.kind} has no level {self.level}", remedy=f"Use a level from {lowest} to {highest}."
            )

    @property
    def effective_level(self) -> int:
        return _LEVELS[self.kind][0] if self.level is None else self.level

    @property
    def media_type(self) -> str:
        return media.OCI_LAYER_FOR[self.kind]

    def compress_chunk(self, pieces: Sequence[Buffer], size: int) -> Sequence[Buffer]:
        """One chunk, given in pieces of `size` bytes together, as one complete member or frame.

        Called from many threads at once: the codecs release the interpreter lock.
        """
        if self.kind == "none":
            return pieces
        compressor = self._compressor(size)
        compressed = [compressor.compress(piece) for piece in pieces]
        compressed.append(compressor.flush())
        return compressed

    def _compressor(self, size: int) -> _Compressor:
        level = self.effective_level
        if self.kind == "zstd":
            return cast(_Compressor, _zstd_context(level).compressobj(size=size))
        if level > _ISAL_HIGHEST:
            import zlib

            return zlib.compressobj(level, zlib.DEFLATED, _GZIP)
        from isal import isal_zlib

        return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP)


class _Compressor(Protocol):
    def compress(self, data: Buffer, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _zstd_context(level: int) -> Any:
    """A context is megabytes of tables and belongs to one thread at a time: one a thread is kept."""
    import zstandard

    if getattr(_local, "level", None) != level:
        _local.level, _local.context = level, zstandard.ZstdCompressor(level=level)
    return _local.context


def compression_of(media_type: str) -> Kind:
    """Raises CorruptLayer for a media type that is no layer's."""
    try:
        return media.LAYER_COMPRESSION[media_type]  # type: ignore[return-value]
    except KeyError:
        raise CorruptLayer(f"cannot read a layer of type {media_type!r}") from None


def decompress(blocks: Iterable[bytes], kind: Kind) -> Iterator[bytes]:
    """The uncompressed bytes in blocks of at most a MiB, however much a compressed byte stands for.

    Raises CorruptLayer for what is damaged or cut short, and whatever `blocks` raises.
    """
    if kind == "none":
        yield from blocks
        return
    rest = iter(blocks)
    first = next((block for block in rest if block), None)
    if first is None:
        raise CorruptLayer(f"the layer has no bytes, which is not {kind} data")
    whole = chain((first,), rest)
    yield from _gunzip(_Reader(whole)) if kind == "gzip" else _unzstd(whole)


def _gunzip(source: _Reader) -> Iterator[bytes]:
    from gzip import BadGzipFile

    from isal import igzip, isal_zlib

    damage = cast(tuple[type[Exception], ...], (EOFError, BadGzipFile, isal_zlib.IsalError))
    try:
        with igzip.IGzipFile(fileobj=source, mode="rb") as stream:  # type: ignore[no-untyped-call]
            while block := stream.read(_BLOCK):
                yield block
    except damage as error:
        raise CorruptLayer(f"the layer's gzip data is damaged: {error}") from error


#: Comes after the last frame of a layer while it is decompressed, to see that that frame was complete: the decoder
#: itself does not tell. Repeated, so that its frame does not hold it as it is: half an uncompressed block, filled up
#: with the frame's bytes, must not end with it.
_SENTINEL = b"layer's end, " * 5
#: Longer than any frame header (RFC 8878, 3.1.1.1).
_TAIL = 32
_READ_AHEAD = 4096


def _unzstd(blocks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    source = _Reader(_with_sentinel(blocks, zstandard.ZstdCompressor().compress(_SENTINEL)))
    decoder = zstandard.ZstdDecompressor()
    stream = decoder.stream_reader(cast(IO[bytes], source), read_size=_BLOCK, read_across_frames=True)
    last = b""
    try:
        while block := stream.read(_BLOCK):
            if len(block) > len(_SENTINEL):
                if last:
                    yield last
                last = block
            else:
                last += block
    except zstandard.ZstdError as error:
        raise CorruptLayer(f"the layer's zstd data is damaged: {error}") from error
    if not last.endswith(_SENTINEL):
        raise CorruptLayer("the layer's zstd data is cut short")
    if rest := last[: -len(_SENTINEL)]:
        yield rest


def _with_sentinel(blocks: Iterator[bytes], sentinel: bytes) -> Iterator[bytes]:
    """Blocks and a last frame. That comes in one piece with the `_TAIL` bytes before it: the decoder forgets half a
    frame header when what it is given next begins with a frame."""
    tail = b""
    for block in blocks:
        if len(block) >= _TAIL:
            if tail:
                yield tail
            tail = block
        else:
            tail += block
            if len(tail) > _READ_AHEAD:
                yield tail[:-_TAIL]
                tail = tail[-_TAIL:]
    if len(tail) > _TAIL:
        yield tail[:-_TAIL]
    yield tail[-_TAIL:] + sentinel


class _Reader:
    """Blocks as the file object both decoders want: `read(n)` gives at most n bytes, b"" at the end."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> Buffer:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = memoryview(block)
        if size < 0 or size >= len(self._rest):
            taken, self._rest = self._rest, memoryview(b"")
        else:
            taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def readinto(self, target: memoryview) -> int:
        taken = self.read(len(target))
        target[: len(taken)] = taken
        return len(taken)
