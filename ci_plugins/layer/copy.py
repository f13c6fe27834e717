"""COPY, ADD and WORKDIR as entries of a new layer, computed from the table of contents of what is below: no root file
system, no mount, no process.

The reference is BuildKit (docopy in solver/llbsolver/file, fsutil's copy):

- the destination's symlinks are followed inside the root, the last one too; directories that it lacks are made with
  mode 0755 (or an octal --chmod) and --chown's owner, else root;
- a directory gives what it holds. The destination keeps its own mode and owner where it exists; directories below it
  that exist take the source's;
- a file does not replace a directory, nor a directory a file or a symlink: both are errors;
- modification times, permission bits, extended attributes and hard links of the source are kept.

A layer need not repeat the directories it stands in: only what is new or changes is an entry.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace

from ci_plugins.errors import BuildError, DockerfileError
from ci_plugins.layer.copy_archive import open_archive
from ci_plugins.layer.copy_digest import copy_digest
from ci_plugins.layer.copy_mode import Chmod
from ci_plugins.layer.copy_output import Output, landed
from ci_plugins.layer.copy_request import Content, CopyRequest, FileTree
from ci_plugins.layer.copy_select import Descendant, Selected, select
from ci_plugins.layer.entry import Entry, EntryType, Item
from ci_plugins.layer.tree import LayerTree

__all__ = ["Content", "CopyRequest", "FileTree", "copy_digest", "copy_items", "workdir_items"]


def copy_items(request: CopyRequest, sources: FileTree, target: LayerTree) -> list[Item]:
    """The layer of a COPY or ADD over `target`, sorted by path.

    Raises CopySourceNotFound, OutsideContext, ContextError, BuildError, DockerfileError.
    """
    copier = _Copier(request, sources, LayerTree() if request.link else target)
    for number, selected in enumerate(select(request, sources)):
        copier.copy(number, selected)
    for name, data in request.inline.items():
        copier.write(name.rpartition("/")[2], data)
    return copier.output.items()


def workdir_items(path: str, target: LayerTree, owner: tuple[int, int], now_ns: int = 0) -> list[Item]:
    """The layer of a WORKDIR: missing directories, mode 0755. BuildKit gives them to the USER in force, so `owner`
    is `resolve_owner(user)`, (0, 0) where none is set. Empty where nothing is missing. Raises BuildError."""
    output = Output(target)
    output.make_directories(target.resolve(path), 0o755, owner, now_ns)
    return output.items()


class _Copier:
    def __init__(self, request: CopyRequest, sources: FileTree, target: LayerTree) -> None:
        self.request = request
        self.sources = sources
        self.output = Output(target)
        self.chmod = Chmod.parse(request.chmod)
        written = posixpath.normpath(posixpath.join("/", request.working_dir, request.destination or "."))
        parent = written if request.wants_directory else posixpath.dirname(written)
        self.written = written
        self.destination = target.resolve(written)
        self.parent = target.resolve(parent)

    def copy(self, number: int, selected: Selected) -> None:
        if self.request.unpack_archives and selected.entry.type is EntryType.FILE and selected.entry.size:
            archive = open_archive(selected.path, self.sources.content(selected.path))
            if archive is not None:
                self._make(self.destination, mode=0o755)
                archive.extract(self.output, self.destination, self.request.owner)
                return
        makes = self.output.lookup(self.destination) is None
        self._make(self.parent)
        if selected.entry.type is EntryType.DIRECTORY:
            self._copy_directory(number, selected, makes)
        else:
            content = self.sources.content(selected.path) if _has_content(selected.entry) else None
            self._place(selected.name, selected.entry, content)

    def write(self, name: str, data: bytes) -> None:
        """An inline file (heredoc)."""
        self._make(self.parent)
        entry = Entry(name, EntryType.FILE, 0o644, size=len(data), mtime_ns=self.request.now_ns)
        self._place(name, entry, data if data else None)

    def _make(self, directory: str, mode: int | None = None) -> None:
        mode = self.chmod.created_directory if mode is None else mode
        self.output.make_directories(directory, mode, self.request.owner or (0, 0), self.request.now_ns)

    def _place(self, name: str, entry: Entry, content: Content | None) -> None:
        """A file at the destination, or in it where that is a directory."""
        path = self.destination
        existing = self.output.lookup(path)
        if existing is not None and existing.type is EntryType.DIRECTORY:
            path = posixpath.join(path, name)
        elif self.output.wrote(path):
            raise DockerfileError(
                f"several files are copied to {self.written}, each in the place of the one before",
                remedy=f"Write the destination as a directory: {self.written}/",
            )
        else:
            self._make(posixpath.dirname(path))
        self._put_leaf(path, entry, content, None)

    def _copy_directory(self, number: int, selected: Selected, makes: bool) -> None:
        self._make(self.destination)
        for inside in selected.descendants:
            path = posixpath.join(self.destination, inside.relative)
            if inside.entry.type is EntryType.DIRECTORY:
                self._put_directory(path, inside)
            else:
                has = _has_content(inside.entry)
                same = self.sources.identity(inside.path) if has else None
                content = self.sources.content(inside.path) if has else None
                self._put_leaf(path, inside.entry, content, None if same is None else (number, same))
        directory = self.output.lookup(self.destination)
        if makes and directory is not None:
            # the source's mode and owner stay behind, but not its time
            self.output.put(replace(directory, mtime_ns=selected.entry.mtime_ns))

    def _put_directory(self, path: str, inside: Descendant) -> None:
        existing = self.output.lookup(path)
        entry = self._landed(path, inside.entry)
        if existing is not None and existing.type is not EntryType.DIRECTORY:
            raise BuildError(
                f"{inside.path} is a directory, but /{path} is not: a directory cannot be copied over it",
                remedy="Remove it in an earlier step, or copy to another place.",
            )
        if existing is not None and inside.delayed:
            entry = replace(existing, path=path, mode=inside.entry.mode)
        elif existing is not None:
            entry = replace(entry, xattrs={**existing.xattrs, **entry.xattrs})
        if entry != existing:
            self.output.put(entry)

    def _put_leaf(self, path: str, entry: Entry, content: Content | None, group: object) -> None:
        existing = self.output.lookup(path)
        if existing is not None and existing.type is EntryType.DIRECTORY:
            raise BuildError(
                f"{entry.path} cannot be copied to /{path}: there is a directory of that name",
                remedy="Remove it in an earlier step, or copy to another place.",
            )
        self.output.put(self._landed(path, entry), content, group)

    def _landed(self, path: str, entry: Entry) -> Entry:
        return landed(path, entry, self.chmod, self.request.owner)


def _has_content(entry: Entry) -> bool:
    return entry.type is EntryType.FILE and entry.size > 0
