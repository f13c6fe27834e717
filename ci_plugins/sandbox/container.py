"""One container, from a prepared directory to its outcome. The builder's side of sandbox/supervisor.py.

The directory holds:

    config.json     the OCI bundle            rootfs/    where the overlay is mounted, seen only inside
    files/          bind-mounted read-only    links/     the overlay's directories by short names
    mount-points/   topmost lower layer       work/      overlayfs' own
    state/, log, pid, outcome                 what runtime and supervisor write
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ci_plugins
from ci_plugins.errors import SandboxError
from ci_plugins.sandbox.mounts import MAX_LOWERS
from ci_plugins.sandbox.runtime import Runtime

#: -I and -S keep site-packages out: the supervisor needs none of it, and starts in a third of the time.
_SUPERVISE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from ci_plugins.sandbox.supervisor import main; "
    "main(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6])"
)
_BLOCK = 1 << 16

#: How many seconds the runtime has to remove a container that is to end.
_GRACE = 2.0
_PACKAGES = Path(ci_plugins.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended by itself: 0 to 255, 128 + number after a signal."""

    code: int


@dataclass(frozen=True, slots=True)
class RuntimeFailed:
    """The runtime could not start the command; `message` is its own."""

    message: str


@dataclass(frozen=True, slots=True)
class SystemRefused:
    """The kernel refused what a container needs; `what` names the call."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Died:
    """The supervisor ended without an outcome: it was killed, or failed, which `complaints` then tells."""

    complaints: str


Outcome = Exited | RuntimeFailed | SystemRefused | Died


def link_overlay(directory: Path, lowers: Sequence[Path], upper: Path) -> None:
    """Name the overlay's directories in `directory`/links; `lowers` topmost first. Raises SandboxError."""
    if len(lowers) > MAX_LOWERS:
        raise SandboxError(
            f"the step stands on {len(lowers)} layers; the kernel can stack {MAX_LOWERS}",
            remedy="Join instructions, or squash the base image.",
        )
    links = directory / "links"
    for made in (links, directory / "work", directory / "rootfs"):
        made.mkdir()
    for number, lower in enumerate(lowers):
        (links / str(number)).symlink_to(lower.absolute())
    (links / "upper").symlink_to(upper.absolute())
    (links / "work").symlink_to(directory / "work")


def remove_containers(directory: Path, runtime: Runtime) -> None:
    """Remove what the runtime keeps of a container whose supervisor was killed: its state and control groups."""
    state = directory / "state"
    for container in state.iterdir() if state.exists() else ():
        subprocess.run(
            [runtime.executable, "--root", state, "delete", "--force", container.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


class Container:
    """A started container. Use it from the thread that made it: the container dies with that thread."""

    def __init__(self, directory: Path, name: str, lowers: int, runtime: Runtime) -> None:
        self._directory = directory
        self._runtime = runtime
        self._killed_at: float | None = None
        self._complaints = b""
        arguments = (str(_PACKAGES), str(os.getpid()), str(directory), name, str(lowers), runtime.executable)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SUPERVISE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath},
            start_new_session=True,  # Ctrl-C in a terminal is the builder's to handle
        )

    def output(self, patience: float) -> Iterator[bytes]:
        """What the command writes, errors included, in its order; b"" whenever `patience` seconds pass without any.

        Ends with the container, when no process of it can write any more.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        output, complaints = self._process.stdout.fileno(), self._process.stderr.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(complaints, select.POLLIN)
        open_ends = {output, complaints}
        while open_ends:
            ready = poll.poll(patience * 1000)
            if not ready:
                yield b""
            for descriptor, _ in ready:
                data = os.read(descriptor, _BLOCK)
                if not data:
                    poll.unregister(descriptor)
                    open_ends.remove(descriptor)
                elif descriptor == output:
                    yield data
                else:
                    self._complaints += data

    def kill(self) -> None:
        """End every process of the container and its mounts. Call it again while it has not ended: after a while
        that is done the hard way."""
        if self._killed_at is None:
            self._killed_at = time.monotonic()
            self._process.terminate()
        elif time.monotonic() - self._killed_at > _GRACE:
            self._process.kill()

    def wait(self) -> Outcome:
        """Wait until no process and no mount of the container is left."""
        try:
            self._process.communicate(timeout=None if self._killed_at is None else _GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        outcome = self._directory / "outcome"
        if outcome.exists():
            return self._read(outcome.read_text())
        remove_containers(self._directory, self._runtime)
        return Died(self._complaints.decode("utf-8", "replace").strip())

    def _read(self, outcome: str) -> Outcome:
        kind, number, *rest = outcome.split(" ", 2)
        if kind == "exited":
            return Exited(int(number))
        if kind == "signalled":
            return Exited(128 + int(number))
        if kind == "system":
            return SystemRefused(int(number), "".join(rest))
        return RuntimeFailed(self._last_error() or f"{self._runtime.name} ended with code {number} and said nothing")

    def _last_error(self) -> str:
        """The last error in the runtime's log, a JSON object a line."""
        log = self._directory / "log"
        records = [json.loads(line) for line in log.read_text().splitlines() if line] if log.exists() else []
        errors = [record["msg"] for record in records if record.get("level") in ("error", "fatal")]
        return str(errors[-1]) if errors else ""
