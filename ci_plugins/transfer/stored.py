"""Blobs that were written before, on their way out of the local store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ci_plugins.errors import SizeMismatch, StateError
from ci_plugins.oci import Descriptor, Digest
from ci_plugins.storage.local import LocalStore


class BlobLost(StateError):
    """The blob of a reused step is not where its record says, or damaged in the local store, from where it is removed:
    in another build the step that wrote it is not reused, but run."""

    default_remedy = "Run the build again: the step that wrote it will be run."

    def __init__(self, message: str, digest: Digest) -> None:
        super().__init__(message)
        self.digest = digest


class StoredBlob:
    """A blob of the local store as the source of an upload, judged by its digest: what is damaged here is found here,
    and not by the registry."""

    def __init__(self, store: LocalStore, descriptor: Descriptor) -> None:
        self._store, self._descriptor = store, descriptor

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    @property
    def path(self) -> Path:
        return self._store.path(self._descriptor.digest)

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Raises BlobLost, before the last block."""
        start, held, actual = 0, b"", hashlib.sha256()
        try:
            for block in self._store.source(self._descriptor).blocks():
                actual.update(block)
                if held:
                    yield held
                held = block[max(0, offset - start) :]
                start += len(block)
        except (StateError, SizeMismatch) as error:
            raise self._lost() from error
        if f"sha256:{actual.hexdigest()}" != self._descriptor.digest:
            raise self._lost()
        if held:
            yield held

    def _lost(self) -> BlobLost:
        self._store.remove(self._descriptor.digest)
        return BlobLost(
            f"the blob {self._descriptor.digest} was damaged in the state directory", self._descriptor.digest
        )
