"""A process that is killed while it writes into the local store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ci_plugins.storage.local import LocalStore

WRITER = """
import sys, time
from pathlib import Path
from ci_plugins.oci import Descriptor, sha256_digest
from ci_plugins.storage.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
store.put(b"complete", Descriptor("x", sha256_digest(b"complete"), 8))
with store.spool() as spool:
    spool.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_kill_leaves_whole_blobs_and_a_spool_that_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        (spool,) = (tmp_path / "spool").iterdir()
        long_ago = time.time() - 3600
        os.utime(spool, (long_ago, long_ago))
        LocalStore(tmp_path)
        assert spool.exists()  # another process writes it, however slowly
        writer.kill()
        writer.wait()
    LocalStore(tmp_path)
    assert not spool.exists()
    (blob,) = (tmp_path / "blobs/sha256").iterdir()
    assert blob.read_bytes() == b"complete"
