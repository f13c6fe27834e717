"""The protocol of a cache index: a forest of records, in scopes.

A scope is a line of trust: a branch, a pull request, a fork. Builds read a list of scopes in their order and write one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.oci import Descriptor, Digest


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed: so many records, which stood for so many bytes of compressed layers."""

    records: int
    bytes: int


class CacheStore(Protocol):
    """Records by (scope, StepKey), images by (scope, name), tables of contents by digest.

    Thread safe. A method raises CacheUnavailable when the store cannot be asked; what is damaged or of another
    KEY_VERSION counts as absent. `put` of what is there replaces it; concurrent writers lose nothing of each other.
    It raises RecordsLeftOut, once all others are stored, for records that this store cannot hold.
    """

    @property
    def name(self) -> str:
        """For people: a path or a URL, without credentials."""

    def lookup(self, keys: Sequence[Digest], scopes: Sequence[str]) -> Map[Digest, CacheRecord]:
        """For every key that is known, the record of the first scope that has it. One round trip for all."""

    def put(self, records: Sequence[CacheRecord], images: Sequence[ImageRecord] = ()) -> None:
        """Store, each in its own scope."""

    def children(self, key: Digest, scopes: Sequence[str]) -> tuple[CacheRecord, ...]:
        """The records whose parent is `key`, the newest first."""

    def images(self, scopes: Sequence[str]) -> tuple[ImageRecord, ...]:
        """The newest first; of one name that of the first scope that has it."""

    def records(self, scopes: Sequence[str]) -> Iterator[CacheRecord]:
        """All of these scopes, in no order: for drawing and checking, not for building."""

    def scopes(self) -> tuple[str, ...]:
        """All scopes that have records, sorted."""

    def touch(self, keys: Sequence[Digest], scope: str) -> None:
        """They were used now: `prune` takes them later."""

    def remove(self, keys: Sequence[Digest], scope: str) -> None:
        """Forget records, and images that went through them."""

    def prune(self, *, older_than: datetime | None = None, max_size: int | None = None) -> Pruned:
        """Remove what was not used since `older_than`, then the longest unused until the compressed layers of all
        records are at most `max_size` bytes together. A record goes only with all that stand on it."""

    def tocs(self, wanted: Sequence[tuple[Descriptor, Sequence[str]]]) -> Map[Digest, bytes]:
        """Tables of contents by their blob's digest, checked against digest and size; what is missing is left out.
        Each is asked for with the repositories that may hold it. Concurrently where that helps."""

    def put_tocs(self, tocs: Map[Digest, bytes]) -> None:
        """Keep tables of contents by the digest of their bytes. Before the records that name them."""

    def close(self) -> None: ...


class CacheUnavailable(Exception):
    """The index cannot be read or written now. Whoever uses a store warns and goes on without it."""


class CacheDamaged(CacheUnavailable):
    """The index will never be readable again: it is not what it should be."""


class RecordsLeftOut(CacheUnavailable):
    """`put` stored what it could; some records cannot be in this store, and the message says why. The store works."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count
