"""Unit tests cannot touch the world: a connection, another program or a mount fails the test that tries it.

The interpreter's audit events tell of the first two, however they are called; they fail with an exception that
`except Exception` does not swallow. A test sees an empty home directory and next to nothing of the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FORBIDDEN = {
    "socket.connect": "open a connection",
    "socket.bind": "listen on a socket",
    "socket.getaddrinfo": "resolve a name",
    "socket.gethostbyname": "resolve a name",
    "socket.sendto": "send a datagram",
    "subprocess.Popen": "start a program",
    "os.system": "start a program",
    "os.exec": "start a program",
    "os.posix_spawn": "start a program",
    "os.fork": "fork",
    "os.forkpty": "fork",
}
#: variables a test may see; the rest of the machine's settings must not matter
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTEST_CURRENT_TEST")


class _Watch:
    """Whether a unit test is running now. An audit hook stays for the life of the process, so it has a switch."""

    on = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _Watch.on and event in FORBIDDEN:
        shown = ", ".join(repr(argument) for argument in arguments[-2:])
        pytest.fail(f"a unit test tried to {FORBIDDEN[event]}: {event}({shown[:200]}); use tests/integration")


sys.addaudithook(_hook)


def _forbid(name: str) -> Callable[..., None]:
    def call(*_: object) -> None:
        pytest.fail(f"a unit test tried the system call {name}; use tests/integration")

    return call


class _NoSystemCalls:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return _forbid(name)


@pytest.fixture(autouse=True)
def no_world(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Around every unit test: nothing outside the process, a home directory of its own."""
    home = tmp_path_factory.mktemp("home")
    for name in set(os.environ) - set(KEPT):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(Path, "home", classmethod(lambda _: home))
    for name in ("chroot", "unshare", "setns"):
        monkeypatch.setattr(os, name, _forbid(name), raising=False)
    if mounts := sys.modules.get("ci_plugins.sandbox.mounts"):
        monkeypatch.setattr(mounts, "_libc", _NoSystemCalls())
    _Watch.on = True
    try:
        yield
    finally:
        _Watch.on = False
