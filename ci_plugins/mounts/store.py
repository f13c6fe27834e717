"""Where packs and indexes are kept between runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ci_plugins.oci import Descriptor


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

    def index(self, name: str) -> bytes | None:
        """The index that was put last under a name, checked as far as the store can; None if there is none."""

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor]) -> None:
        """Replace the index of a name in one go: readers see the one before or this one. `packs` are those it names,
        all of them there: they are kept as long as it is. Raises CiPluginsError, and leaves the index before, if one
        of them is gone."""

    def prune(self, before: float) -> int:
        """Remove indexes put before this time (seconds since the epoch), and what only they named. Returns how many
        indexes were removed; 0 where a store does not let that be done."""
