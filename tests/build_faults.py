"""What tests of faulty builds need: builds that run on their own, a slow line, and a look at what is left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness import Cli


class LocalCli(Cli):
    """Builds whose only cache is their state directory: what these tests are about."""

    def command(self, *arguments: str | Path) -> list[str]:
        local = ("--cache", "off") if arguments[0] == "build" else ()
        return super().command(*arguments, *local)


class SlowLine:
    """A TCP proxy in front of a port of 127.0.0.1 that passes `rate` bytes a second each way; 0 is nothing at all."""

    def __init__(self, upstream: int, listener: socket.socket) -> None:
        self.upstream, self._listener = upstream, listener
        self.up = self.down = float("inf")
        self.host = f"127.0.0.1:{listener.getsockname()[1]}"

    @classmethod
    @contextmanager
    def start(cls, upstream: int) -> Iterator[SlowLine]:
        with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
            line = cls(upstream, listener)
            threading.Thread(target=line._accept, daemon=True).start()
            try:
                yield line
            finally:
                listener.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            for source, sink, rate in ((client, server, lambda: self.up), (server, client, lambda: self.down)):
                source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
                threading.Thread(target=self._pass, args=(source, sink, rate), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, rate: Callable[[], float]) -> None:
        try:
            while data := source.recv(16 << 10):
                while rate() == 0:
                    time.sleep(0.02)
                time.sleep(len(data) / rate())
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


@dataclass
class Running:
    """A build as a process of its own; its output is read all the time."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, cli: Cli, context: Path, *arguments: str | Path) -> Running:
        process = subprocess.Popen(
            cli.command("build", context, "--state", cli.state, "--progress", "plain", *arguments),
            # SIGABRT prints every thread: what a test that hangs is ended with
            env=cli.environment({"PYTHONFAULTHANDLER": "1"}),
            cwd=cli.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running = cls(process)
        running._reader = threading.Thread(target=running._read, daemon=True)
        running._reader.start()
        return running

    _reader: threading.Thread = field(init=False, repr=False)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def says(self, text: str, seconds: float = 20) -> None:
        """Wait until it says so."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self._dump(f"it never said {text!r}")
            time.sleep(0.01)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code. A build that hangs fails the test with what each of its threads was doing."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._dump(f"it did not end within {seconds} s")
        self._reader.join(5)
        return code

    def succeed(self, seconds: float = 60) -> None:
        code = self.wait(seconds)
        assert code == 0, f"code {code}\n{self.output}"

    def stop(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; (exit code, seconds until it ended)."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.wait(20)
        return code, time.monotonic() - began

    def _dump(self, why: str) -> None:
        self.process.send_signal(signal.SIGABRT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reader.join(5)
        pytest.fail(f"{why}\n{self.output}")


def unusual_nap() -> str:
    """Seconds for `sleep` that no other test's command sleeps."""
    return str(10**6 + secrets.randbelow(10**8))


def processes(text: str) -> list[int]:
    """Those with `text` among their arguments, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                    found.append(int(entry.name))
    return found


def left_behind(state: Path) -> list[str]:
    """What a build that has ended must not leave: mounts, containers, temporary files, snapshots without a name."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    return [*mounts, *map(str, (state / "scratch").glob("*")), *unnamed_snapshots(state)]


def unnamed_snapshots(state: Path) -> list[str]:
    named = {
        os.readlink(link).rpartition("/")[2] for link in (state / "snapshots/by-chain").glob("*") if link.is_symlink()
    }
    return [str(path) for path in (state / "snapshots/data").glob("*") if path.name not in named]


def cgroups() -> set[str]:
    """Control groups of containers of this project's engine, whoever's they are."""
    return {folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "ci-plugins-" in os.path.basename(folder)}
