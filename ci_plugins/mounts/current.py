"""What a store has of a mount now: other runners may have saved it since this one looked."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from ci_plugins.errors import CiPluginsError, Interrupted, RegistryUnavailable, RegistryUnreachable
from ci_plugins.mounts.index import DamagedIndex, MountIndex
from ci_plugins.mounts.side_by_side import side_by_side
from ci_plugins.mounts.store import ChunkStore
from ci_plugins.oci import Digest, sha256_digest

#: What means that the next try would be as futile.
DOWN = (RegistryUnreachable, RegistryUnavailable)


@dataclass(frozen=True, slots=True)
class Current:
    """What a store has under a name: its stamp, None for nothing, and the index, if that is another one than expected,
    and one that can be used."""

    stamp: Digest | None
    index: MountIndex | None


def current(
    name: str, store: ChunkStore, expected: str, oldest: float, stop: threading.Event, seconds: float = math.inf
) -> Current:
    """`expected` is the stamp of the index that need not be read; one saved before `oldest` counts as none. Raises
    CiPluginsError if the store cannot be asked, Interrupted, and TimeoutError for an answer that takes longer."""
    (stamp,) = side_by_side(store.stamp, [name], 1, stop, seconds)
    if stamp is None or stamp == expected:
        return Current(stamp, None)
    try:
        (data,) = side_by_side(store.index, [name], 1, stop, seconds)
        index = MountIndex.from_bytes(data) if data is not None else None
    except (*DOWN, Interrupted):
        raise
    except (CiPluginsError, DamagedIndex):  # gone, or damaged: there is nothing to keep of it
        return Current(stamp, None)
    if data is None or index is None:
        return Current(None, None)
    return Current(sha256_digest(data), index if index.saved >= oldest else None)
