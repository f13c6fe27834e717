"""The protocol of a cache index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ci_plugins.cache.record import CacheRecord
from ci_plugins.oci import Digest


class CacheStore(Protocol):
    """Records by StepKey. A store that fails makes a build slower, never wrong: see `CacheUnavailable`."""

    def lookup(self, keys: Iterable[Digest]) -> Mapping[Digest, CacheRecord]:
        """The records that are there, in one round trip. Damaged records and other key versions are left out."""

    def put(self, records: Iterable[CacheRecord]) -> None:
        """Store; a record of the same key is replaced. Idempotent, atomic per record."""


class CacheUnavailable(Exception):
    """The index cannot be read or written now. Whoever uses a store warns and goes on without it."""


class CacheDamaged(CacheUnavailable):
    """The index is not one, or its contents are damaged: nothing but starting a new one helps."""
