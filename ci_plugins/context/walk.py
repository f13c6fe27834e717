"""The build context: the files below a directory that .dockerignore leaves, read when somebody asks for them."""

from __future__ import annotations

import errno
import glob
import os
import posixpath
import stat
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ci_plugins.context.hash import FileToHash, hash_files
from ci_plugins.context.ignore import Ignore, load_ignore
from ci_plugins.context.known import KnownDigests
from ci_plugins.errors import ContextChanged, ContextError, ContextNotFound, OutsideContext
from ci_plugins.layer.copy_patterns import MatchInfo
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.names import belongs_in_layer
from ci_plugins.layer.tree import resolve_links
from ci_plugins.oci import Digest

_FILE = EntryType.FILE
_NO_DEVICE = (0, 0)
#: Of all else. Sockets are missing: like Docker's client, they are left out.
_TYPES = {
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFCHR: EntryType.CHARACTER,
    stat.S_IFBLK: EntryType.BLOCK,
    stat.S_IFIFO: EntryType.FIFO,
}
_NONE: Mapping[str, bytes] = MappingProxyType({})


class Context:
    """A `FileTree` over a directory. Directories are listed one by one when asked for, files are hashed once; nothing
    is read before. Entries have uid and gid 0 and the permission bits on disk, like a context that Docker receives.

    Safe from many threads.
    """

    def __init__(self, root: Path, dockerfile: Path | None, known: KnownDigests | None) -> None:
        self.root = root
        self._known = known
        self._prefix = str(root) + "/"
        self._dockerfile = dockerfile
        self._lock = threading.RLock()
        self._loaded_ignore: Ignore | None = None
        self._listings: dict[str, Mapping[str, Entry]] = {}
        self._match_infos: dict[str, MatchInfo] = {"": ()}
        self._inodes: dict[str, int] = {}
        self._identities: dict[str, Hashable] = {}
        self._digests: dict[str, Digest] = {}

    @classmethod
    def open(cls, root: Path, dockerfile: Path | None = None, known: KnownDigests | None = None) -> Context:
        """`dockerfile` is where it lies, in the context or not: an ignore file of its own may be beside it.
        `known` holds digests of earlier builds. Raises ContextNotFound."""
        if not root.is_dir():
            what = "is not a directory" if os.path.lexists(root) else "does not exist"
            raise ContextNotFound(f"the build context {root} {what}")
        return cls(root, dockerfile, known)

    @property
    def ignore(self) -> Ignore:
        """Raises ContextError."""
        with self._lock:
            if self._loaded_ignore is None:
                self._loaded_ignore = load_ignore(self.root, self._dockerfile)
            return self._loaded_ignore

    # -- FileTree ---------------------------------------------------------------------------------------------------

    def lookup(self, path: str) -> Entry | None:
        if not path:
            return self._root_entry()
        directory, _, name = path.rpartition("/")
        listing = self._listings.get(directory)
        return (listing if listing is not None else self._listing(directory)).get(name)

    def children(self, directory: str) -> Sequence[str]:
        return sorted(self._listing(directory))

    def walk(self, directory: str = "") -> Iterator[Entry]:
        """All below a directory, depth first by name, a directory before what it holds."""
        listing = self._listing(directory)
        for name in sorted(listing):
            yield listing[name]
            if listing[name].type is EntryType.DIRECTORY:
                yield from self.walk(listing[name].path)

    def resolve(self, path: str) -> str:
        """Raises OutsideContext, BuildError for a loop of links."""
        if posixpath.normpath(path.lstrip("/") or ".").split("/")[0] == "..":
            raise OutsideContext(f"{path} is outside the build context {self.root}")

        def target_of(candidate: str) -> str | None:
            entry = self.lookup(candidate)
            return entry.link if entry is not None and entry.type is EntryType.SYMLINK else None

        return resolve_links(path, target_of)

    def content(self, path: str) -> str:
        return self._prefix + path

    def content_digests(self, paths: Sequence[str]) -> list[Digest]:
        with self._lock:
            todo = [path for path in dict.fromkeys(paths) if path not in self._digests]
            self._digests.update(zip(todo, self._hashed([self._to_hash(path) for path in todo]), strict=True))
            return [self._digests[path] for path in paths]

    def _hashed(self, files: Sequence[FileToHash]) -> list[Digest]:
        """From an earlier build where the file is what it was, else read now."""
        if self._known is None:
            return [digest for digest, *_ in hash_files(files)]
        found = self._known.lookup(self.root, files)
        missing = [file for file in files if file.path not in found]
        began_ns = time.time_ns()
        hashed = hash_files(missing)
        self._known.note(self.root, missing, hashed, began_ns)
        found |= {file.path: digest for file, (digest, *_) in zip(missing, hashed, strict=True)}
        return [found[file.path] for file in files]

    def identity(self, path: str) -> Hashable | None:
        self.lookup(path)
        return self._identities.get(path)

    def absence(self, path: str) -> str:
        for found in sorted(glob.iglob(path, root_dir=self.root)):
            if self.lookup(found) is None and (reason := self.ignore.explain(found)):
                return reason
        entry = self.lookup(path)
        if entry is not None and entry.type is EntryType.SYMLINK:
            return f"it is a symbolic link to {entry.link}, which the build context does not have"
        return ""

    def check_unchanged(self) -> None:
        """Look again at every file whose bytes were asked for: to be called once its bytes are in the layer.
        Raises ContextChanged."""
        with self._lock:
            for path in self._digests:
                file = self._to_hash(path)
                try:
                    status = os.lstat(file.path)
                except OSError as error:
                    raise ContextChanged(f"{file.path} changed while the build read it") from error
                if (status.st_ino, status.st_size, status.st_mtime_ns) != (self._inodes[path], *file[1:]):
                    raise ContextChanged(f"{file.path} changed while the build read it")

    # -- reading the disk ---------------------------------------------------------------------------------------------

    def _root_entry(self) -> Entry:
        status = os.stat(self.root)
        return Entry("", EntryType.DIRECTORY, status.st_mode & 0o7777, mtime_ns=status.st_mtime_ns)

    def _to_hash(self, path: str) -> FileToHash:
        entry = self.lookup(path)
        if entry is None or entry.type is not EntryType.FILE:
            raise ContextError(f"{path} is not a file of the build context")
        return FileToHash(self._prefix + path, entry.size, entry.mtime_ns)

    def _listing(self, directory: str) -> Mapping[str, Entry]:
        known = self._listings.get(directory)
        if known is not None:
            return known
        with self._lock:
            if directory:
                entry = self.lookup(directory)
                if entry is None or entry.type is not EntryType.DIRECTORY:
                    return {}
            return self._scan(directory)

    def _scan(self, directory: str) -> Mapping[str, Entry]:
        if directory in self._listings:
            return self._listings[directory]
        ignore = self.ignore
        matcher = ignore.matcher if ignore.rules else None
        above = self._match_infos[directory] if matcher is not None else ()
        prefix = directory + "/" if directory else ""
        listing: dict[str, Entry] = {}
        try:
            with os.scandir(self._prefix + directory) as found:
                for item in found:
                    name = item.name
                    path = prefix + name
                    if matcher is not None:
                        excluded, info = matcher.match(path, above)
                        is_directory = item.is_dir(follow_symlinks=False)
                        if is_directory:
                            self._match_infos[path] = info
                        # an excluded directory is there only for what an exception brings back
                        if excluded and not (is_directory and matcher.may_except_below(path) and self._scan(path)):
                            continue
                    entry = self._entry(item, path)
                    if entry is not None:
                        listing[name] = entry
        except FileNotFoundError as error:
            raise ContextChanged(f"{error.filename} went away while the build read the context") from error
        except OSError as error:
            raise ContextError(
                f"cannot read {error.filename or self._prefix + directory}: {error.strerror}",
                remedy="Give read permission, or exclude it by .dockerignore.",
            ) from error
        self._listings[directory] = listing
        return listing

    def _entry(self, item: os.DirEntry[str], path: str) -> Entry | None:
        status = item.stat(follow_symlinks=False)
        format_, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        if format_ == stat.S_IFREG:
            self._inodes[path] = status.st_ino
            if status.st_nlink > 1:
                self._identities[path] = (status.st_dev, status.st_ino)
            xattrs = _xattrs(item.path)
            return Entry(path, _FILE, mode, 0, 0, status.st_size, status.st_mtime_ns, "", _NO_DEVICE, xattrs)
        kind = _TYPES.get(format_)
        if kind is None:
            return None
        link = os.readlink(item.path) if format_ == stat.S_IFLNK else ""
        xattrs = _xattrs(item.path) if not link else _NONE
        device = _NO_DEVICE
        if format_ in (stat.S_IFCHR, stat.S_IFBLK):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return Entry(path, kind, mode, 0, 0, 0, status.st_mtime_ns, link, device, xattrs)


def _xattrs(path: str) -> Mapping[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        if not names:
            return _NONE
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if belongs_in_layer(name)}
    except OSError as error:
        # no attributes on this file system, or none that this user may see: reading the file says so if it matters
        if error.errno in (errno.ENOTSUP, errno.EACCES, errno.ENODATA):
            return _NONE
        raise
