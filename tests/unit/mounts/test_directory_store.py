"""A directory as a store of cache mounts, while several use it."""

from __future__ import annotations

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ci_plugins.mounts import directory_store
from ci_plugins.mounts.directory_store import DirectoryChunks
from ci_plugins.oci import Descriptor, sha256_digest


@pytest.mark.parametrize("locks", [True, False])
def test_prunes_beside_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """What a prune has listed may have got its name, or be gone, when it looks at it."""
    if not locks:

        def none(descriptor: int, how: int) -> None:
            raise OSError("no locks here")

        monkeypatch.setattr(fcntl, "flock", none)
    store = DirectoryChunks(tmp_path)
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            data = b"%d" % number
            pack = Descriptor("application/octet-stream", sha256_digest(data), len(data))
            store.put(pack, data)
            assert store.put_index(f"index-{number % 7}", data, [pack], replacing=store.stamp(f"index-{number % 7}"))
        done.set()

    def prune() -> None:
        while not done.wait(0.001):
            # whatever is unnamed stays for a day: what has a writer is left alone
            assert DirectoryChunks(tmp_path).prune(0.0).problems == ()

    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(work) for work in (prune, prune, write)]
        futures[2].result()
        for future in futures:
            future.result()
    assert len(list((tmp_path / "indexes").iterdir())) == 7
    assert len(list((tmp_path / "packs").glob("*/*"))) == 60


def test_an_index_of_long_ago_goes_with_its_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_store, "_GRACE", -1.0)
    store = DirectoryChunks(tmp_path)
    pack = Descriptor("application/octet-stream", sha256_digest(b"data"), 4)
    store.put(pack, b"data")
    store.put_index("kept", b"{}", [pack], replacing=None)
    assert store.prune(0.0).mounts == 0
    assert store.get(pack) == b"data"
    assert store.prune(2e9).mounts == 1
    assert store.missing([pack]) == [pack]
