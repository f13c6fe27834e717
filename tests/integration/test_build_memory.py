"""How much memory a build of large layers takes: that of its budget, not that of the layers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.build_faults import LocalCli, Running
from tests.harness import Cli
from tests.servers import DockerRegistry

#: with the default memory budget of 256 MiB, mebibytes
MOST = 400


@pytest.fixture
def cli(cli: Cli) -> Cli:
    return LocalCli(cli.home, cli.state)


def peak(build: Running, seconds: float) -> float:
    """The most memory the process has had at once, in MiB, its children excepted; waits for its end."""
    status, highest = Path(f"/proc/{build.process.pid}/status"), 0
    deadline = time.monotonic() + seconds
    while build.process.poll() is None and time.monotonic() < deadline:
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        highest = max([highest, *(int(line.split()[1]) for line in found)])
        time.sleep(0.05)
    build.succeed(1)
    return highest / 1024


def large_file(path: Path, mebibytes: int) -> None:
    """Half of it cannot be compressed."""
    text = b"".join(b"%d: a line of text that is like the others\n" % n for n in range(30_000))[: 1 << 20]
    with path.open("wb") as file:
        for number in range(mebibytes):
            file.write(os.urandom(1 << 20) if number % 2 else text)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize(
    "mebibytes", [600, pytest.param(2048, marks=pytest.mark.nightly)], ids=lambda size: f"{size}MiB"
)
def test_memory_is_bounded(
    cli: Cli, registry: DockerRegistry, base_image: str, tmp_path: Path, mebibytes: int, compression: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A layer of a RUN, and one of a COPY of one file that a later RUN stands on, both made and pushed; then pulled by
    an empty runner as a base."""
    context = tmp_path / "context"
    context.mkdir()
    large_file(context / "large", mebibytes)
    half = mebibytes // 2
    (context / "Dockerfile").write_text(
        f"FROM {base_image} AS run\nRUN dd if=/dev/urandom of=/random bs=1M count={half}"
        f" && yes some text that is compressible | head -c {half << 20} > /text\n"
        f"FROM {base_image} AS copy\nCOPY large /large\nRUN wc -c /large > /size\n"
    )
    figures = []
    for target in ("run", "copy"):
        tag = f"{registry.host}/memory/{compression}:{target}-{mebibytes}"
        build = Running.start(cli, context, "--target", target, "--compression", compression, "--tag", tag, "--push")
        figures.append((target, peak(build, 300)))
    (context / "Dockerfile").write_text(f"FROM {tag}\nRUN ls -l /large\n")
    build = Running.start(LocalCli(cli.home, tmp_path / "empty"), context)
    figures.append(("pull", peak(build, 300)))
    with capsys.disabled():
        print(
            f"[{compression}, {mebibytes} MiB: {', '.join(f'{name} {most:.0f}' for name, most in figures)} MiB] ",
            end="",
        )
    assert max(most for _, most in figures) < MOST, figures
