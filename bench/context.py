"""How long it takes to know a build context of 50,000 files: everything that `COPY . /app` asks of it before it runs.

    python -m bench.context [--files N] [--rounds N]

Two contexts are made in the directory for temporary files, about 300 MB: 500 directories of 100 files of 1 to 4 kB, and
the deep one of a package manager; both also with an ignore file of 20 patterns. Each figure is the median of several
new processes, wall seconds, in brackets user and system CPU seconds of all processes.

    listing      directories, types, modes, extended attributes
    hashing      contents, from the page cache, on an empty state
    both         of one process: the goal is 1.5 s
    from disk    hashing where nothing is in the page cache
    unchanged    hashing on the state of an earlier build
    COPY .       both, and the digest of a step that copies all of it
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

from ci_plugins.context import Context, KnownDigests
from ci_plugins.layer.copy_digest import copy_sources
from ci_plugins.layer.copy_request import CopyRequest
from ci_plugins.layer.entry import EntryType

GOAL = 1.5
#: as ci_plugins/__main__.py has it
COLLECTED = 100_000
IGNORE = """\
.git
.gitignore
**/.DS_Store
**/*.log
**/*.tmp
**/__pycache__
**/*.pyc
.venv
venv
build/*.o
coverage
.nyc_output
*.md
docs/**/*.html
**/.idea
**/.vscode
.env*
Dockerfile*
docker-compose*.yml
!README.md
"""
COLUMNS = ("listing", "hashing", "both", "from disk", "unchanged", "COPY .")

#: wall and CPU seconds
Figure = tuple[float, float]


def flat(root: Path, count: int) -> None:
    chance = random.Random(1)
    for number in range(count):
        directory = root / f"d{number // 100}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number % 100}").write_bytes(chance.randbytes(chance.randint(1000, 4000)))


def packages(root: Path, count: int) -> None:
    """Like node_modules: many small directories, sizes of a long tail."""
    chance = random.Random(2)
    made = 0
    while made < count:
        package = root / f"node_modules/pkg-{made}"
        for inner in ("", "lib", "lib/util", "dist/cjs/x", "node_modules/dep/lib"):
            (package / inner).mkdir(parents=True, exist_ok=True)
            for number in range(min(chance.randint(2, 14), count - made)):
                content = chance.randbytes(int(chance.lognormvariate(7, 1.2)))
                (package / inner / f"i{number}.js").write_bytes(content)
                made += 1


def measure(root: Path, known: Path) -> dict[str, Figure]:
    """In a process of its own: listing, then hashing; on a state there may be, which is kept."""
    gc.set_threshold(COLLECTED)
    kept = KnownDigests(known)
    context = Context.open(root, None, kept)
    begun = now()
    files = [entry.path for entry in context.walk() if entry.type is EntryType.FILE]
    listed = now()
    context.content_digests(files)
    hashed = now()
    kept.save()
    return {"listing": between(begun, listed), "hashing": between(listed, hashed), "both": between(begun, hashed)}


def measure_copy(root: Path, known: Path) -> dict[str, Figure]:
    gc.set_threshold(COLLECTED)
    begun = now()
    copy_sources(CopyRequest((".",), "/app"), Context.open(root, None, KnownDigests(known)))
    return {"COPY .": between(begun, now())}


def now() -> Figure:
    return time.perf_counter(), sum(os.times()[:4])


def between(begun: Figure, ended: Figure) -> Figure:
    return ended[0] - begun[0], ended[1] - begun[1]


def in_new_process(what: str, root: Path, known: Path) -> dict[str, Figure]:
    code = "import sys, json; from pathlib import Path; from bench import context as c; "
    code += f"print(json.dumps(c.{what}(Path(sys.argv[1]), Path(sys.argv[2]))))"
    done = subprocess.run([sys.executable, "-c", code, root, known], check=True, stdout=subprocess.PIPE)
    return {name: (wall, cpu) for name, (wall, cpu) in json.loads(done.stdout).items()}


def forget(root: Path) -> None:
    """Take the files' bytes out of the page cache."""
    os.sync()
    for directory, _, names in os.walk(root):
        for name in names:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def rounds(root: Path, count: int) -> dict[str, Figure]:
    """Medians. Rounds, so that a machine that is busy for a while is so for all figures."""
    taken: dict[str, list[Figure]] = {name: [] for name in COLUMNS}
    known = root.with_name("known.sqlite")
    for _ in range(count):
        for name, figure in _round(root, known):
            taken[name].append(figure)
    return {name: (median(figures, 0), median(figures, 1)) for name, figures in taken.items()}


def _round(root: Path, known: Path) -> Iterator[tuple[str, Figure]]:
    forget(root)
    yield "from disk", in_new_process("measure", root, known)["hashing"]
    known.unlink()
    yield from in_new_process("measure", root, known).items()
    yield "unchanged", in_new_process("measure", root, known)["hashing"]
    known.unlink()
    yield from in_new_process("measure_copy", root, known).items()


def median(figures: list[Figure], which: int) -> float:
    return statistics.median(figure[which] for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    directory = Path(mkdtemp(prefix="bench-context-"))
    print(f"{options.files:,} files, {os.cpu_count()} cores, goal: both in at most {GOAL} s\n")
    print(f"| context | {' | '.join(COLUMNS)} | goal |")
    print(f"|---|{'---|' * len(COLUMNS)}---|")
    try:
        for make in (flat, packages):
            root = directory / make.__name__
            make(root, options.files)
            time.sleep(2.5)  # files that were just written are not trusted to stay as they are
            for ignoring in (False, True):
                if ignoring:
                    (root / ".dockerignore").write_text(IGNORE)
                    time.sleep(2.5)
                figures = rounds(root, options.rounds)
                cells = " | ".join(f"{wall:.2f} ({cpu:.2f})" for wall, cpu in figures.values())
                verdict = "met" if figures["both"][0] <= GOAL else "missed"
                name = make.__name__ + (", 20 patterns" if ignoring else "")
                print(f"| {name} | {cells} | {verdict} |", flush=True)
            shutil.rmtree(root)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
