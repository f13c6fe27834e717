"""The files of an image or a stage as a source of COPY --from: known from its tables of contents, read from its
snapshots."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from ci_plugins.context.hash import FileToHash, hash_files
from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.tree import Found, LayerTree
from ci_plugins.oci import Digest


class ImageTree:
    """A `FileTree` over `tree`; `snapshots` gives the directory of a layer (lowest is 0) and is called only when a
    file's bytes are asked for, so it may fetch. Owners are the image's. Safe from many threads.
    """

    def __init__(self, tree: LayerTree, snapshots: Callable[[int], Path]) -> None:
        self._tree = tree
        self._snapshots = snapshots
        self._lock = threading.RLock()
        self._roots: dict[int, str] = {}
        self._directories: set[tuple[int, str]] = set()
        self._digests: dict[tuple[int, str], Digest] = {}

    def lookup(self, path: str) -> Entry | None:
        found = self._tree.lookup(path)
        return found.entry if found else None

    def children(self, directory: str) -> Sequence[str]:
        return self._tree.children(directory)

    def walk(self, directory: str = "") -> Iterator[Entry]:
        return (found.entry for found in self._tree.walk(directory))

    def resolve(self, path: str) -> str:
        """ ".." stops at the root. Raises BuildError for a loop."""
        return self._tree.resolve(path)

    def content(self, path: str) -> str:
        """Where the file lies. Raises CorruptLayer if the snapshot does not hold what the layer says."""
        found = self._file(path)
        return self._located(path, found)[0]

    def content_digests(self, paths: Sequence[str]) -> list[Digest]:
        found = [(path, self._file(path)) for path in paths]
        with self._lock:
            todo = {(one.layer, one.first_name): (path, one) for path, one in found}
            missing = [key for key in todo if key not in self._digests]
            files = [self._located(*todo[key]) for key in missing]
            hashed = hash_files([FileToHash(name, status.st_size, status.st_mtime_ns) for name, status in files])
            self._digests.update(zip(missing, (digest for digest, *_ in hashed), strict=True))
            return [self._digests[one.layer, one.first_name] for _, one in found]

    def identity(self, path: str) -> Hashable | None:
        found = self._tree.lookup(path)
        return (found.layer, found.first_name) if found is not None and found.entry.type is EntryType.FILE else None

    def absence(self, path: str) -> str:
        entry = self.lookup(path)
        if entry is not None and entry.type is EntryType.SYMLINK:
            return f"it is a symbolic link to {entry.link}, which the image does not have"
        return ""

    def _file(self, path: str) -> Found:
        found = self._tree.lookup(path)
        if found is None or found.entry.type is not EntryType.FILE:
            raise CorruptLayer(f"/{path} is not a file of the image")
        return found

    def _located(self, path: str, found: Found) -> tuple[str, os.stat_result]:
        """Path and status in the snapshot, no symlink on the way: a snapshot is ours, but its names are not."""
        with self._lock:
            root = self._roots.get(found.layer)
            if root is None:
                root = self._roots[found.layer] = str(self._snapshots(found.layer))
            self._check_directory(root, found.layer, path.rpartition("/")[0])
        name = f"{root}/{path}"
        try:
            status = os.lstat(name)
        except OSError as error:
            raise CorruptLayer(f"/{path} is missing in the snapshot of layer {found.layer + 1}") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size != found.entry.size:
            raise CorruptLayer(f"/{path} is not in the snapshot of layer {found.layer + 1} as the layer has it")
        return name, status

    def _check_directory(self, root: str, layer: int, directory: str) -> None:
        if not directory or (layer, directory) in self._directories:
            return
        self._check_directory(root, layer, directory.rpartition("/")[0])
        try:
            is_directory = stat.S_ISDIR(os.lstat(f"{root}/{directory}").st_mode)
        except OSError:
            is_directory = False
        if not is_directory:
            raise CorruptLayer(f"/{directory} is not a directory in the snapshot of layer {layer + 1}")
        self._directories.add((layer, directory))
