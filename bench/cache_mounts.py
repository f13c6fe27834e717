"""How long a cache mount takes to the registry and back, and what is sent again after a small change.

    python -m bench.cache_mounts [DIRECTORY]

The mount is an npm cache: 20,000 files of 467 MB under names that are digests, most of them already compressed. It is
saved to Debian's docker-registry on the loopback interface, restored on an empty runner, changed by sixty packages,
saved again. Beside it: one `tar | zstd` archive of the same files each time, written to and read from a disk, as CI
caches do it, and layers cut by path, of which those count that hold something new. DIRECTORY (default: the one for
temporary files) takes about 4 GB for a while.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from ci_plugins.events import Recorder
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.groups import groups
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.registry_store import RegistryChunks
from ci_plugins.mounts.spec import MountRequest, MountSpec
from ci_plugins.storage.registry import RegistryClient
from tests.servers import DockerRegistry

FILES, SIZE = 10_000, 467_000_000
SPEC = MountSpec("/root/.npm", "/root/.npm")


def npm_cache(root: Path, count: int, size: int, seed: int) -> None:
    """Add `count` packages of `size` bytes together: a content and an index file each (cacache's layout)."""
    chance = random.Random(seed)
    text = b" ".join(bytes(chance.choices(b"etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(400_000))
    weights = [min(chance.lognormvariate(9.6, 1.5), 8_000_000) for _ in range(count)]
    scale = size / sum(weights)
    for number, weight in enumerate(weights):
        length, at = int(weight * scale) + 1, chance.randrange(len(text) // 2)
        body = text[at : at + length] if number % 8 == 0 else chance.randbytes(length)
        digest = hashlib.sha512(body).hexdigest()
        _add(root / "_cacache/content-v2/sha512", digest, body)
        key = f"make-fetch-happen:request-cache:https://registry.example.com/p{seed}-{number}/-/p-1.{number % 17}.0.tgz"
        integrity = "sha512-" + base64.b64encode(bytes.fromhex(digest)).decode()
        headers = {"cache-control": "public, immutable", "etag": f'"{digest[:32]}"', "vary": "Accept-Encoding"}
        entry = json.dumps(
            {"key": key, "integrity": integrity, "time": 1_700_000_000_000 + number, "size": length,
             "metadata": {"url": key[34:], "reqHeaders": {}, "resHeaders": headers, "options": {"compress": True}}}
        ).encode()  # fmt: skip
        line = b"\n" + hashlib.sha1(entry).hexdigest().encode() + b"\t" + entry
        _add(root / "_cacache/index-v5", hashlib.sha256(key.encode()).hexdigest(), line)


def _add(root: Path, digest: str, data: bytes) -> None:
    path = root / digest[:2] / digest[2:4] / digest[4:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def timed(name: str, rows: list[tuple[str, float, str]], note: list[str]) -> Iterator[None]:
    note.clear()
    began = time.perf_counter()
    yield
    rows.append((name, time.perf_counter() - began, " ".join(note)))


class Runner:
    """One runner: a state directory, and a connection of its own."""

    def __init__(self, state: Path, host: str) -> None:
        self._recorder = Recorder()
        remote = RegistryChunks(RegistryClient(host), "bench/mounts")
        self._manager = MountManager(state, "shared", self._recorder, remote=remote)
        self._parent = self._recorder.begin("build", "bench")

    def lease(self) -> Path:
        with self._manager.lease([MountRequest(SPEC)], self._parent, threading.Event()) as (bind,):
            return bind.source

    def save(self) -> str:
        (saved,) = self._manager.save(self._parent, threading.Event())
        assert not self._recorder.warnings(), self._recorder.warnings()
        return f"{saved.result}: {saved.files} files, {saved.bytes / 1e6:.0f} MB, sent {saved.sent / 1e6:.2f} MB"


def archive(tree: Path, file: Path) -> str:
    subprocess.run(["tar", "-C", tree, "-I", "zstd -3 -T0", "-cf", file, "."], check=True)
    return f"{file.stat().st_size / 1e6:.0f} MB"


def unarchive(file: Path, tree: Path) -> None:
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-I", "zstd", "-xf", file], check=True)


def groups_by_path(tree: Path) -> dict[tuple[str, ...], int]:
    """What layers cut by path would be made of: their files' names, and their bytes."""
    return {
        tuple(item.entry.path for item in group): sum(item.entry.size for item in group)
        for group in groups(diff_items(tree))
    }


def main() -> None:
    scratch = Path(mkdtemp(prefix="mounts", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    rows: list[tuple[str, float, str]] = []
    note: list[str] = []
    try:
        with DockerRegistry.start(scratch / "registry") as registry:
            first = Runner(scratch / "first", registry.host)
            tree = first.lease()
            npm_cache(tree, FILES, SIZE, 1)
            with timed("tar, zstd -3", rows, note):
                note.append(archive(tree, scratch / "archive"))
            with timed("zstd, tar", rows, note):
                unarchive(scratch / "archive", scratch / "unarchived")
            with timed("save", rows, note):
                note.append(first.save())
            with timed("save again, nothing changed", rows, note):
                note.append(first.save())
            with timed("restore", rows, note):
                copy = Runner(scratch / "second", registry.host).lease()
            subprocess.run(["diff", "-r", tree, copy], check=True)
            before = groups_by_path(tree)
            npm_cache(tree, 60, 2_800_000, 2)
            with timed("save again, 60 packages (2.8 MB) more", rows, note):
                note.append(first.save())
            with timed("tar, zstd -3, the same", rows, note):
                note.append(archive(tree, scratch / "archive"))
            changed = sum(size for names, size in groups_by_path(tree).items() if names not in before)
    finally:
        shutil.rmtree(scratch)
    print("| what | seconds | |\n|---|---|---|")
    for name, seconds, text in rows:
        print(f"| {name} | {seconds:.2f} | {text} |")
    print(f"\nLayers cut by path would have had to be written anew for {changed / 1e6:.0f} MB of files.")


if __name__ == "__main__":
    main()
