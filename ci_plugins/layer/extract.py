"""A compressed layer to its table of contents, its DiffID and, if wanted, a snapshot, in one pass.

Decompression and hashing run in threads of their own, ahead of reading the archive and writing files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ci_plugins.errors import CorruptLayer
from ci_plugins.events import ActiveSpan
from ci_plugins.layer.assemble import Assembly, Fate, interpret
from ci_plugins.layer.compress import compression_of, decompress
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.pump import pump
from ci_plugins.layer.tar import Buffer
from ci_plugins.layer.tar_read import TarReader
from ci_plugins.layer.toc import KEPT, KEPT_LIMIT, Toc
from ci_plugins.layer.unpack import Unpacker
from ci_plugins.oci import Digest, parse_digest

#: uncompressed bytes between two reports of progress
_PROGRESS = 4 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may hold at most: members of its archive, and bytes of its files, holes included."""

    entries: int = 1_000_000
    bytes: int = 1 << 38


@dataclass(frozen=True, slots=True)
class Extracted:
    """`size` is that of the uncompressed archive in bytes. `implied` and `missing_links` are the Toc's: what
    `adopt.adopt_parents` and `adopt.copy_up_links` complete a snapshot with."""

    toc: Toc
    diff_id: Digest
    size: int
    implied: tuple[str, ...]
    missing_links: tuple[tuple[str, str], ...]


def extract_layer(
    blocks: Iterable[bytes], media_type: str, root: Path, *, span: ActiveSpan, limits: Limits = Limits()
) -> Extracted:
    """Unpack a layer into `root`, an empty directory, and its description.

    The caller compares `diff_id` with the image config's, and removes `root` when this raises: CorruptLayer,
    DiskFull, StateError, or what `blocks` raises.
    """
    with Unpacker(root) as unpacker:
        return _read(blocks, media_type, span, limits, unpacker)


def read_layer(blocks: Iterable[bytes], media_type: str, *, span: ActiveSpan, limits: Limits = Limits()) -> Extracted:
    """The same without a disk: what the layer holds. Raises CorruptLayer, or what `blocks` raises."""
    return _read(blocks, media_type, span, limits, None)


def digest_layer(
    blocks: Iterable[bytes], media_type: str, *, span: ActiveSpan, limits: Limits = Limits()
) -> tuple[Extracted, Mapping[str, Digest]]:
    """The same, and the sha256 of every file's bytes by the path it was stored under."""
    digester = _Digester()
    return _read(blocks, media_type, span, limits, digester), digester.digests


class Sink(Protocol):
    """Who takes the entries of an archive, in its order."""

    def place(self, entry: Entry, fate: Fate, content: Iterable[Buffer]) -> None: ...

    def later(self, entry: Entry, fate: Fate) -> None:
        """A hard link whose file has not come yet."""

    def finish(self, toc: Toc) -> None: ...


class _Digester:
    def __init__(self) -> None:
        self.digests: dict[str, Digest] = {}

    def place(self, entry: Entry, fate: Fate, content: Iterable[Buffer]) -> None:
        if entry.type is EntryType.FILE:
            sha256 = hashlib.sha256()
            for piece in content:
                sha256.update(piece)
            self.digests[entry.path] = Digest(f"sha256:{sha256.hexdigest()}")

    def later(self, entry: Entry, fate: Fate) -> None:
        """A link has no bytes of its own."""

    def finish(self, toc: Toc) -> None:
        """Nothing is left to do."""


def _read(
    blocks: Iterable[bytes], media_type: str, span: ActiveSpan, limits: Limits, unpacker: Sink | None
) -> Extracted:
    counted = _Counted(span)
    with closing(pump(decompress(blocks, compression_of(media_type)))) as plain:
        with closing(pump(counted.blocks(plain))) as ahead:
            toc = unpack_tar(ahead, unpacker, limits)
    span.set(bytes=counted.size, entries=len(toc.entries))
    diff_id = parse_digest("sha256:" + counted.sha256.hexdigest())
    return Extracted(toc, diff_id, counted.size, toc.implied_parents(), toc.missing_links())


def unpack_tar(blocks: Iterable[bytes], unpacker: Sink | None, limits: Limits = Limits()) -> Toc:
    """An uncompressed archive to its table of contents and, with an unpacker, onto the disk."""
    reader, assembly = TarReader(blocks), Assembly()
    kept: dict[str, bytes] = {}
    members = total = 0
    for member in reader:
        members += 1
        total += member.size
        if members > limits.entries or total > limits.bytes:
            raise CorruptLayer(f"the layer holds more than {limits.entries} members or {limits.bytes} bytes")
        meant = interpret(member)
        if meant is None:
            continue
        entry, fate = assembly.add(meant)
        content: Iterable[Buffer] = reader.content() if entry.type is EntryType.FILE else ()
        if entry.path in KEPT and entry.type is EntryType.FILE and entry.size <= KEPT_LIMIT:
            kept[entry.path] = data = b"".join(content)
            content = (data,)
        if unpacker is None:
            continue
        if entry.type is EntryType.HARDLINK and entry.link not in assembly:
            unpacker.later(entry, fate)
        else:
            unpacker.place(entry, fate, content)
    toc = assembly.toc(kept)
    if unpacker is not None:
        unpacker.finish(toc)
    return toc


class _Counted:
    """Hashes and counts what passes."""

    def __init__(self, span: ActiveSpan) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._span = span

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        reported = 0
        for block in blocks:
            self.sha256.update(block)
            self.size += len(block)
            if self.size - reported >= _PROGRESS:
                reported = self.size
                self._span.progress(self.size)
            yield block
