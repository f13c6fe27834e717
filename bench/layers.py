"""How fast layers are written and unpacked here, beside `tar | gzip -1` and `tar | zstd -3` on the same files.

    python bench/layers.py [DIRECTORY]

DIRECTORY (default: the one for temporary files) takes about 10 GB for a while. Every row is the best of three rounds;
where the machine has other work, the processor time says more than the clock. Peak memory is measured in a process of
its own.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from ci_plugins.events import Recorder
from ci_plugins.layer.budget import MemoryBudget
from ci_plugins.layer.compress import Compression, Kind
from ci_plugins.layer.diff import diff_items
from ci_plugins.layer.extract import extract_layer, read_layer
from ci_plugins.layer.stream import Layer, contents_of, stream_layer
from ci_plugins.layer.toc import Toc
from ci_plugins.storage.local import LocalStore

ROUNDS = 3
MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """Seconds on the clock and of the processors, ours and the peer's."""

    name: str
    ours: tuple[float, float]
    peer: tuple[float, float] | None = None


def small_files(root: Path, count: int = 50_000) -> Path:
    """Files like a node_modules: mostly 0.5 to 5 KiB of text, 25 a directory."""
    chance = random.Random(1)
    words = [f"word{chance.randrange(3000)}" for _ in range(200_000)]
    text = " ".join(words).encode()
    for number in range(count // 25):
        directory = root / f"usr/lib/node_modules/package{number // 10}/dir{number % 10}"
        directory.mkdir(parents=True)
        for file in range(25):
            at, size = chance.randrange(len(text) // 2), min(int(chance.lognormvariate(7.2, 1.1)), 90_000)
            (directory / f"file{file}.js").write_bytes(text[at : at + size])
    return root


def large_files(root: Path, size: int = 256 * MIB) -> Path:
    """Whole files of this machine's /usr/lib, up to a size."""
    total = 0
    for directory, names, files in os.walk("/usr/lib"):
        names.sort()
        for name in sorted(files):
            source = Path(directory, name)
            if source.is_symlink() or not source.is_file() or source.stat().st_size < 65536:
                continue
            if total + source.stat().st_size > size:
                continue
            target = root / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            total += source.stat().st_size
    return root


def stream(store: LocalStore, tree: Path, kind: Kind, to: Path | None = None) -> Layer:
    with Recorder().span("layer", "bench") as span, store.spool() as spool:
        return stream_layer(
            contents_of(diff_items(tree)),
            compression=Compression(kind),
            spool=spool,
            span=span,
            budget=MemoryBudget(),
            extract_to=to,
        )


def best(work: Callable[[], object]) -> tuple[float, float]:
    """The round that was quickest by the clock, and the processor time it took in all threads and programs."""
    rounds = []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), processor_seconds()
        work()
        rounds.append((time.perf_counter() - began, processor_seconds() - used))
    return min(rounds)


def processor_seconds() -> float:
    return sum(os.times()[:4])


def fresh(scratch: Path) -> Path:
    """A new directory. None is removed before the end: ext4 is slow for a while where many files were deleted."""
    return Path(mkdtemp(dir=scratch))


def peer(command: str) -> tuple[float, float] | None:
    """A shell pipeline's best time; None if one of its programs is missing."""
    for part in command.split("|"):
        if shutil.which(part.split()[0]) is None:
            return None
    return best(lambda: subprocess.run(["sh", "-c", command], check=True))


def writing(name: str, tree: Path, store: LocalStore) -> list[Row]:
    rows: list[Row] = []
    peers: tuple[tuple[Kind, str], ...] = (("gzip", "gzip -1"), ("zstd", "zstd -3 -q"))
    for kind, codec in peers:
        theirs = peer(f"tar -C {tree} -cf - . | {codec} -c > {store.root}/peer")
        ours = best(partial(stream, store, tree, kind))
        rows.append(Row(f"{name}: tar + sha256 + {kind} + sha256", ours, theirs))
    return rows


def unpacking(name: str, tree: Path, store: LocalStore, scratch: Path) -> list[Row]:
    rows: list[Row] = []
    peers: tuple[tuple[Kind, str], ...] = (("gzip", "gzip"), ("zstd", "zstd -q"))
    for kind, codec in peers:
        layer = stream(store, tree, kind)
        path = store.path(layer.descriptor.digest)

        def extract(layer: Layer = layer) -> None:
            with Recorder().span("extract", "bench") as span:
                blocks = store.source(layer.descriptor).blocks()
                extract_layer(blocks, layer.descriptor.media_type, fresh(scratch), span=span)

        theirs = peer(f"{codec} -dc {path} | tar -C $(mktemp -d -p {scratch}) -xpf -")
        rows.append(Row(f"{name}: un{kind} + sha256 + extract", best(extract), theirs))
    with Recorder().span("extract", "bench") as span:
        blob, media_type = store.source(layer.descriptor), layer.descriptor.media_type
        read = best(lambda: read_layer(blob.blocks(), media_type, span=span))
    both = best(lambda: stream(store, tree, "zstd", fresh(scratch)))
    return [*rows, Row(f"{name}: unzstd + contents only", read), Row(f"{name}: zstd and snapshot in one pass", both)]


def contents(tree: Path, store: LocalStore) -> list[Row]:
    toc = stream(store, tree, "none").toc
    data = toc.to_bytes()
    print(f"A table of contents of {len(toc.entries)} entries has {len(data) // 1024} KiB.")
    return [Row("contents: write", best(toc.to_bytes)), Row("contents: load", best(lambda: Toc.from_bytes(data)))]


def peak_memory(scratch: Path) -> None:
    """A 2 GB layer, streamed and unpacked, in a process of its own."""
    tree = fresh(scratch)
    block = os.urandom(MIB) + b"text\n" * (MIB // 5)
    for number in range(2):
        with (tree / f"large{number}").open("wb") as file:
            for _ in range(512):
                file.write(block)
    done = subprocess.run(
        [sys.executable, __file__, "--memory", tree, fresh(scratch)], capture_output=True, text=True, check=True
    )
    print(done.stdout.strip())


def memory_of(tree: Path, scratch: Path) -> None:
    before = peak_mib()
    layer = stream(LocalStore(scratch / "store"), tree, "zstd", fresh(scratch))
    print(f"A layer of {layer.size // MIB} MiB: peak memory {peak_mib()} MiB, {before} MiB before it.")


def peak_mib() -> int:
    """Of this program (VmHWM); getrusage would count the one that started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def table(rows: list[Row]) -> None:
    print("| what | seconds (processor) | peer | ratio (processor) |\n|---|---|---|---|")
    for row in rows:
        ours = "{:.3f} ({:.2f})".format(*row.ours)
        theirs = "{:.3f} ({:.2f})".format(*row.peer) if row.peer else "-"
        ratio = f"{row.ours[0] / row.peer[0]:.2f} ({row.ours[1] / row.peer[1]:.2f})" if row.peer else "-"
        print(f"| {row.name} | {ours} | {theirs} | {ratio} |")


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        memory_of(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    scratch = Path(mkdtemp(prefix="layers", dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        store = LocalStore(scratch / "store")
        small, large = small_files(fresh(scratch)), large_files(fresh(scratch))
        print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        rows = writing("50,000 small files", small, store) + unpacking("50,000 small files", small, store, scratch)
        rows += writing("256 MiB", large, store) + unpacking("256 MiB", large, store, scratch)
        table(rows + contents(small, store))
        peak_memory(scratch)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
