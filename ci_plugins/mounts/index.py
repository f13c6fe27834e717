"""What the shared store has of a mount: which packs, which chunks in them, and the tree that is made of those.

A chunk is the content of a file, or a piece of a large one. A pack is chunks one after another, compressed together as
one zstd frame. Written as zstd-compressed JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ci_plugins.layer.entry import EntryType
from ci_plugins.oci import Descriptor, parse_digest

#: Part of every index: one of another version counts as none.
VERSION = 1

PACK_TYPE = "application/vnd.ci-plugins.cache-mount.pack.v1+zstd"
INDEX_TYPE = "application/vnd.ci-plugins.cache-mount.index.v1+zstd"

#: What an index can be at most when uncompressed: some millions of files.
_MAX_INDEX = 1 << 30
_TYPES = frozenset({EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK, EntryType.HARDLINK})


class DamagedIndex(ValueError):
    """It does not say what an index has to say, or says what cannot be."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`digest` is the sha256 of its bytes, in hex."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Pack:
    """`descriptor` is that of the compressed blob; `chunks` are what it holds, in order."""

    descriptor: Descriptor
    chunks: tuple[Chunk, ...]

    @property
    def size(self) -> int:
        """Uncompressed bytes."""
        return sum(chunk.size for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Node:
    """A path of the mount, "" for its own directory; as `layer.entry.Entry`, with when it was last used (seconds since
    the epoch) and, for a file, the digests of its chunks."""

    path: str
    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    used: int
    size: int = 0
    link: str = ""
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MountIndex:
    """`nodes` are sorted so that a directory comes before what it holds; `saved` is seconds since the epoch."""

    id: str
    saved: int
    packs: tuple[Pack, ...]
    nodes: tuple[Node, ...]

    def to_json(self) -> dict[str, Any]:
        numbers = {chunk.digest: n for n, chunk in enumerate(chunk for pack in self.packs for chunk in pack.chunks)}
        return {
            "version": VERSION,
            "id": self.id,
            "saved": self.saved,
            "packs": [
                [p.descriptor.digest, p.descriptor.size, [[chunk.digest, chunk.size] for chunk in p.chunks]]
                for p in self.packs
            ],
            "nodes": [
                [n.path, n.type, n.mode, n.uid, n.gid, n.mtime_ns, n.used, n.size, n.link]
                + [numbers[digest] for digest in n.chunks]
                for n in self.nodes
            ],
        }

    def to_bytes(self) -> bytes:
        return pack_json(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> MountIndex:
        """Raises DamagedIndex, also for an index of another version."""
        return cls.from_json(unpack_json(data))

    @classmethod
    def from_json(cls, value: Any) -> MountIndex:
        """Checks all that whoever uses an index relies on: every path is below the mount and stands in a directory of
        it, files are as long as their chunks, chunks exist. Raises DamagedIndex."""
        try:
            if value["version"] != VERSION:
                raise DamagedIndex(f"an index of version {value['version']}")
            packs = tuple(_pack(*fields) for fields in value["packs"])
            chunks = [chunk for pack in packs for chunk in pack.chunks]
            nodes = tuple(_node(chunks, *fields) for fields in value["nodes"])
            index = cls(str(value["id"]), int(value["saved"]), packs, nodes)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise DamagedIndex(f"not the index of a cache mount: {error}") from error
        _check_tree(nodes)
        return index


def pack_json(value: Any) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(
        json.dumps(value, separators=(",", ":")).encode()
    )


def unpack_json(data: bytes) -> Any:
    """Raises DamagedIndex."""
    import zstandard

    try:
        if not 0 <= zstandard.frame_content_size(data) <= _MAX_INDEX:
            raise DamagedIndex("an index of no size, or one that is too large")
        return json.loads(zstandard.ZstdDecompressor().decompress(data))
    except (zstandard.ZstdError, ValueError) as error:
        raise DamagedIndex(f"cannot read the index of a cache mount: {error}") from error


def _pack(digest: str, size: int, chunks: Sequence[Sequence[Any]]) -> Pack:
    held = tuple(Chunk(str(digest), _count(size)) for digest, size in chunks)
    return Pack(Descriptor(PACK_TYPE, parse_digest(digest), _count(size)), held)


def _node(
    known: Sequence[Chunk],
    path: str,
    type: str,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    used: int,
    size: int,
    link: str,
    *numbers: int,
) -> Node:
    chunks = [known[_count(number)] for number in numbers]
    if sum(chunk.size for chunk in chunks) != size:
        raise DamagedIndex(f"{path!r} is not as long as its chunks")
    digests = tuple(chunk.digest for chunk in chunks)
    return Node(
        str(path), EntryType(type), _count(mode) & 0o7777, _count(uid), _count(gid), int(mtime_ns), int(used),
        _count(size), str(link), digests,
    )  # fmt: skip


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise DamagedIndex(f"not a count: {value!r}")
    return value


def _check_tree(nodes: Sequence[Node]) -> None:
    directories: set[str] = set()
    files: set[str] = set()
    paths: set[str] = set()
    for node in nodes:
        parent, _, name = node.path.rpartition("/")
        if node.type not in _TYPES or node.path in paths or "\0" in node.path + node.link:
            raise DamagedIndex(f"it holds {node.path!r} twice, or as something it cannot be")
        if node.path and (parent not in directories or name in ("", ".", "..") or node.path.startswith("/")):
            raise DamagedIndex(f"it holds {node.path!r}, which is not in a directory of it")
        if not node.path and node.type is not EntryType.DIRECTORY:
            raise DamagedIndex("the mount itself is no directory in it")
        if node.type is EntryType.HARDLINK and node.link not in files:
            raise DamagedIndex(f"{node.path!r} is a link to {node.link!r}, which is no file before it")
        paths.add(node.path)
        if node.type is EntryType.DIRECTORY:
            directories.add(node.path)
        elif node.type is EntryType.FILE:
            files.add(node.path)
