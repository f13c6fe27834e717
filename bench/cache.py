"""How long the index of a build takes: 40 keys looked up in three scopes, among 1,000 records and among 100,000.

    python -m bench.cache

Takes about 200 MB in the directory for temporary files. Redis and the registry are started for it, on loopback. The
median of 31 lookups by one store; "first" is that of a new process, from the import to the records, without the start
of the interpreter.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

from ci_plugins.cache.open import open_store
from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.cache.store import CacheStore
from ci_plugins.oci import Descriptor, Digest, media, sha256_digest
from ci_plugins.storage.registry import RegistryClient
from tests.integration.test_cache_stores import redis_server
from tests.servers import DockerRegistry

SIZES = (1_000, 100_000)
SCOPES = ("pr-17", "release", "main")
ROUNDS = 31
CHAIN = 20

FIRST = """
import sys, time
began = time.perf_counter()
from ci_plugins.cache.open import open_store
from ci_plugins.oci import parse_digest
def client_for(registry):
    from ci_plugins.storage.registry import RegistryClient
    return RegistryClient(registry)
opened = time.perf_counter()
store = open_store(sys.argv[1], client_for)
found = store.lookup([parse_digest(key) for key in sys.argv[2:]], ["pr-17", "release", "main"])
ended = time.perf_counter()
assert len(found) == 38, len(found)
print(opened - began, ended - opened)
"""


@dataclass(frozen=True)
class Row:
    """Seconds."""

    store: str
    records: int
    put: float
    lookup: float
    imported: float
    first: float


def records(count: int) -> Iterator[CacheRecord]:
    """Chains of 20 steps in the main scope, two of three with a layer."""
    for number in range(count):
        layer = None
        if number % 3:
            blob = Descriptor(media.OCI_LAYER_ZSTD, sha256_digest(b"blob %d" % number), 1_000_000 + number)
            toc = Descriptor("application/vnd.ci-plugins.toc", sha256_digest(b"toc %d" % number), 5_000)
            layer = RecordedLayer(blob, sha256_digest(b"diff %d" % number), 3_000_000, toc)
        yield CacheRecord(
            key=key(number),
            parent=key(number - 1) if number % CHAIN else None,
            instruction=f"RUN make target-{number} && make install",
            layer=layer,
            created="2026-01-02T03:04:05.000006Z",
            seconds=1.5,
            scope="main",
            repositories=("registry.example/team/app",),
            inputs={"parent": key(number - 1), "command": f"make target-{number} && make install"},
        )


def key(number: int) -> Digest:
    return sha256_digest(b"key %d" % number)


def wanted(count: int) -> list[Digest]:
    """40 keys of two chains, of which the last two are new."""
    start = count // 2 // CHAIN * CHAIN
    return [key(start + number) for number in range(38)] + [key(-1), key(-2)]


def measure(url: str, count: int, fill: Callable[[CacheStore], None]) -> Row:
    with closing(open_store(url, RegistryClient)) as store:
        began = time.perf_counter()
        fill(store)
        put = time.perf_counter() - began
    keys = wanted(count)
    times = []
    with closing(open_store(url, RegistryClient)) as store:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            assert len(store.lookup(keys, SCOPES)) == 38
            times.append(time.perf_counter() - began)
    firsts = [first(url, keys) for _ in range(5)]
    imported, opened = (statistics.median(column) for column in zip(*firsts, strict=True))
    return Row(url.partition(":")[0], count, put, statistics.median(times), imported, opened)


def first(url: str, keys: Sequence[Digest]) -> tuple[float, ...]:
    done = subprocess.run([sys.executable, "-c", FIRST, url, *keys], check=True, capture_output=True, text=True)
    return tuple(map(float, done.stdout.split()))


def by_thousands(store: CacheStore, some: Sequence[CacheRecord]) -> None:
    for start in range(0, len(some), 1_000):
        store.put(some[start : start + 1_000])


def main() -> None:
    rows = []
    directory = Path(mkdtemp(prefix="bench-cache-"))
    try:
        for count in SIZES:
            some = list(records(count))
            with ExitStack() as stack:
                _, port = stack.enter_context(redis_server(directory))
                for url in (f"sqlite:{directory}/{count}.sqlite", f"redis://:secret@127.0.0.1:{port}/0"):
                    rows.append(measure(url, count, lambda store, some=some: by_thousands(store, some)))
        # a scope's snapshot holds at most 500; more records are other scopes' and are not read
        with DockerRegistry.start(directory / "registry") as registry:
            some = [replace(record, layer=None) for record in records(500)]
            rows.append(measure(f"registry://{registry.host}/bench", 500, lambda store: store.put(some)))
    finally:
        shutil.rmtree(directory)
    print("| store | records | put all, s | lookup, ms | import, ms | open and first lookup, ms |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.store} | {row.records:,} | {row.put:.2f} | {1e3 * row.lookup:.2f} "
            f"| {1e3 * row.imported:.0f} | {1e3 * row.first:.1f} |"
        )


if __name__ == "__main__":
    main()
