"""Where packs and indexes are kept between runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ci_plugins.cache.removal import Freed
from ci_plugins.oci import Descriptor, Digest


class ChunkStore(Protocol):
    """Packs by digest, indexes by name. Thread safe, safe between machines.

    All methods raise CiPluginsError when the store cannot be reached or refuses.
    """

    @property
    def name(self) -> str:
        """Tells stores apart; for people too."""

    def missing(self, packs: Sequence[Descriptor]) -> list[Descriptor]:
        """Those it does not have. What it has is kept for at least as long as it takes to put an index on it."""

    def put(self, pack: Descriptor, data: bytes) -> bool:
        """Keep a pack; `data` are its bytes. Returns False if it was there. Idempotent."""

    def get(self, pack: Descriptor) -> bytes:
        """The bytes of a pack, checked against digest and size. Raises VerificationError, or another CiPluginsError
        where it is missing."""

    def stamp(self, name: str) -> Digest | None:
        """Tells the index of a name from any other: the digest of its bytes, found without reading them where that can
        be; None if there is none."""

    def index(self, name: str) -> bytes | None:
        """The index that was put last under a name, checked as far as the store can; None if there is none."""

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor], *, replacing: Digest | None) -> bool:
        """Replace the index of a name in one go: readers see the one before or this one. `packs` are those it names,
        all of them there: they are kept as long as it is. Raises CiPluginsError, and leaves the index before, if one
        of them is gone.

        `replacing` is the stamp of what the writer has read. Returns False where another one has come since, or takes
        the place of this one at once: what it holds is to be read, and added to. Where a store cannot look and write
        in one go, this is as good as it can be: one of two writers in the same moment may not learn of the other.
        """

    def prune(self, before: float) -> Freed:
        """Remove indexes put before this time (seconds since the epoch), and packs that no index names. `mounts` of
        the answer counts the indexes, where a store lets that be done; `bytes` are those that it knows are free."""
