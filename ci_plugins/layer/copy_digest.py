"""The digest of all that a COPY or ADD reads and says: the part of its step key that is not the state below it."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from struct import Struct

from ci_plugins.layer.copy_mode import Chmod
from ci_plugins.layer.copy_output import landed
from ci_plugins.layer.copy_request import CopyRequest, FileTree
from ci_plugins.layer.copy_select import Selected, select
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.oci import Digest

#: Raised whenever the same inputs make another layer than before.
_VERSION = b"copy 1"
#: mode, uid, gid, device major and minor, size
_NUMBERS = Struct("<6Q").pack
_LENGTH = Struct("<Q").pack
#: bytes that `CopySources.files` keeps of a file's digest
MARK_SIZE = 4


@dataclass(frozen=True, slots=True)
class CopySources:
    """What a COPY or ADD reads: `digest` names all of it.

    `count` is that of files and links. `files` says, for people who ask what changed, what was selected: path → the
    first bytes of a digest over all that counts of it; paths of directories end with a slash. Nothing is read for it.
    """

    digest: Digest
    count: int
    files: Callable[[], Mapping[str, bytes]]


def copy_digest(request: CopyRequest, sources: FileTree) -> Digest:
    """Equal only for requests that make the same layer over the same state below, times aside.

    In it: the destination; of every file, by the name it lands under, type, mode and owner as they land, link target,
    device, extended attributes, the sha256 of its bytes, and which files are hard links of each other. Not in it:
    modification times, the order of a directory, what .dockerignore or --exclude leave out. Every field is preceded by
    its length. Raises what `copy_items` raises for its sources.
    """
    return copy_sources(request, sources).digest


def copy_sources(request: CopyRequest, sources: FileTree) -> CopySources:
    """As `copy_digest`, and what the digest was made of."""
    chmod = Chmod.parse(request.chmod)
    rows = [row for selected in select(request, sources) for row in _rows(selected, sources)]
    contents = iter(sources.content_digests([row.path for row in rows if _is_read(row.entry)]))
    uid, gid = request.owner or (0, 0)
    fields = [
        _VERSION,
        _text(posixpath.normpath(posixpath.join("/", request.working_dir, request.destination or "."))),
        bytes((request.wants_directory, request.unpack_archives)),
        _NUMBERS(chmod.created_directory, uid, gid, 0, 0, 0),
        _LENGTH(len(rows)),
    ]
    for row in rows:
        entry = landed(row.name, row.entry, chmod, request.owner)
        content = next(contents) if _is_read(row.entry) else ""
        fields += _entry_fields(entry, row.mark, content, row.same_as)
    for name, data in request.inline.items():
        fields += [_text(name), data, _NUMBERS(chmod.apply(0o644, directory=False), uid, gid, 0, 0, 0)]
    digest = hashlib.sha256(b"".join([part for field in fields for part in (_LENGTH(len(field)), field)]))
    count = sum(row.entry.type is not EntryType.DIRECTORY for row in rows)
    return CopySources(Digest("sha256:" + digest.hexdigest()), count, partial(_files, request, sources, rows))


def _files(request: CopyRequest, sources: FileTree, rows: Sequence[_Row]) -> Mapping[str, bytes]:
    chmod = Chmod.parse(request.chmod)
    contents = iter(sources.content_digests([row.path for row in rows if _is_read(row.entry)]))
    marks: dict[str, bytes] = {}
    for row in rows:
        content = next(contents) if _is_read(row.entry) else ""
        if row.mark == "c":
            continue
        fields = _entry_fields(landed(row.name, row.entry, chmod, request.owner), row.mark, content, row.same_as)
        mark = hashlib.sha256(b"".join([part for field in fields for part in (_LENGTH(len(field)), field)]))
        slash = "/" if row.entry.type is EntryType.DIRECTORY else ""
        marks[row.path + slash] = mark.digest()[:MARK_SIZE]
    return marks


@dataclass(frozen=True, slots=True)
class _Row:
    #: "c" a directory that gives what it holds, "d" one there only for what it holds, "" anything else
    mark: str
    name: str
    path: str
    entry: Entry
    #: the row's first other name, "" without one
    same_as: str = ""


def _rows(selected: Selected, sources: FileTree) -> list[_Row]:
    if selected.entry.type is not EntryType.DIRECTORY:
        return [_Row("", selected.name, selected.path, selected.entry)]
    # of the directory itself nothing is copied
    rows = [_Row("c", "", selected.path, Entry("", EntryType.DIRECTORY))]
    first_names: dict[Hashable, str] = {}
    for inside in selected.descendants:
        same = sources.identity(inside.path) if _is_read(inside.entry) else None
        first = inside.relative if same is None else first_names.setdefault(same, inside.relative)
        mark = "d" if inside.delayed else ""
        rows.append(_Row(mark, inside.relative, inside.path, inside.entry, "" if first == inside.relative else first))
    return rows


def _is_read(entry: Entry) -> bool:
    return entry.type is EntryType.FILE and entry.size > 0


def _entry_fields(entry: Entry, mark: str, content: str, same_as: str) -> list[bytes]:
    size = entry.size if entry.type is EntryType.FILE else 0
    fields = [
        (entry.type.value + mark).encode(),
        _text(entry.path),
        _NUMBERS(entry.mode, entry.uid, entry.gid, *entry.device, size),
        _text(entry.link),
        content.encode(),
        _text(same_as),
        _LENGTH(len(entry.xattrs)),
    ]
    for name in sorted(entry.xattrs):
        fields += [_text(name), entry.xattrs[name]]
    return fields


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
