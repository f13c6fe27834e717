"""What a COPY or ADD asks for, and what it reads from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import BinaryIO, Protocol

from ci_plugins.layer.entry import Entry
from ci_plugins.oci import Digest

#: what `Item.content` takes
Content = str | PathLike[str] | bytes | Callable[[], BinaryIO]

_NONE: Mapping[str, bytes] = MappingProxyType({})


class FileTree(Protocol):
    """Files that can be copied from: a build context, or the file system of an image or a stage.

    Paths are as in `Entry.path`. A hard link is shown as the file it is.
    """

    def lookup(self, path: str) -> Entry | None:
        """What is at a path whose directories are no symlinks; the last element is not followed."""
        ...

    def children(self, directory: str) -> Sequence[str]:
        """Sorted names; none for what is not a directory."""
        ...

    def resolve(self, path: str) -> str:
        """The path without symlinks, inside the root; what does not exist is taken as written.
        Raises OutsideContext where a context is left, ContextError or BuildError for a loop."""
        ...

    def content(self, path: str) -> Content:
        """The bytes of a file of size > 0."""
        ...

    def content_digests(self, paths: Sequence[str]) -> Sequence[Digest]:
        """sha256 of each file's bytes, in order. Raises ContextChanged, ContextError."""
        ...

    def identity(self, path: str) -> Hashable | None:
        """Equal for two names of the same file; None for a file that has one name."""
        ...

    def absence(self, path: str) -> str:
        """Why a path that somebody expects is not there, as a clause for a sentence; "" if there is nothing to say."""
        ...


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A COPY or ADD of local files after expansion.

    `sources` are patterns as written; `inline` the heredocs, name to bytes. `owner` is (uid, gid) of --chown, None to
    keep the source's (0:0 in a context). `chmod` is octal ("0755") or symbolic ("u=rwX,go=rX"), "" to keep. `exclude`
    holds --exclude patterns. With `unpack_archives` a tar archive is extracted instead of copied (ADD). `link` (--link)
    composes the layer as if nothing were below it: no symlink of the destination is followed, its directories are made
    anew. `now_ns`, since the epoch, is the mtime of what has none of its own: created directories, heredocs.
    """

    sources: tuple[str, ...]
    destination: str
    working_dir: str = "/"
    owner: tuple[int, int] | None = None
    chmod: str = ""
    inline: Mapping[str, bytes] = field(default_factory=lambda: _NONE)
    parents: bool = False
    exclude: tuple[str, ...] = ()
    unpack_archives: bool = False
    link: bool = False
    now_ns: int = 0

    @property
    def wants_directory(self) -> bool:
        """Whether the destination is written as a directory ("x/", ".", "x/.")."""
        return self.destination in ("", ".") or self.destination.endswith(("/", "/."))
