"""A damaged blob of the local store is found while it is sent, removed, and told as lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_plugins.oci import Descriptor, sha256_digest
from ci_plugins.storage.local import LocalStore
from ci_plugins.transfer.stored import BlobLost, StoredBlob

DATA = bytes(range(256)) * 10_000  # more than two blocks


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.put(DATA, BLOB)
    return store


BLOB = Descriptor("application/octet-stream", sha256_digest(DATA), len(DATA))


@pytest.mark.parametrize("offset", [0, 1, 1 << 20, (1 << 20) + 5, len(DATA) - 1, len(DATA)])
def test_a_whole_blob_from_any_offset(store: LocalStore, offset: int) -> None:
    assert b"".join(StoredBlob(store, BLOB).blocks(offset)) == DATA[offset:]


@pytest.mark.parametrize("offset", [0, len(DATA) - 1])
def test_a_flipped_byte_is_found_before_the_last_block(store: LocalStore, offset: int) -> None:
    damaged = bytearray(DATA)
    damaged[0] ^= 1
    store.path(BLOB.digest).write_bytes(damaged)
    sent = bytearray()
    with pytest.raises(BlobLost):
        sent.extend(byte for block in StoredBlob(store, BLOB).blocks(offset) for byte in block)
    assert len(sent) < len(DATA) - offset
    assert not store.has(BLOB)


@pytest.mark.parametrize("left", [0, 1000, None])
def test_a_truncated_or_missing_blob(store: LocalStore, left: int | None) -> None:
    path = store.path(BLOB.digest)
    path.unlink() if left is None else path.write_bytes(DATA[:left])
    with pytest.raises(BlobLost):
        b"".join(StoredBlob(store, BLOB).blocks())
