"""The walls of tests/unit/conftest.py hold."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ci_plugins.sandbox import mounts


def _connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def _listen() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "attempt",
    [
        _connect,
        _listen,
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: subprocess.run([sys.executable, "-c", ""]),
        lambda: os.system("true"),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        os.fork,
        lambda: os.chroot("/"),
        mounts.enter_private_mounts,
        lambda: mounts.mount("none", "/nowhere", "tmpfs"),
    ],
)
def test_the_world_is_out_of_reach(attempt: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="a unit test tried"):
        attempt()


def test_the_home_directory_is_empty() -> None:
    assert list(Path.home().iterdir()) == list(Path("~").expanduser().iterdir()) == []
    assert not [name for name in os.environ if name.startswith(("CI", "PIP_", "DOCKER_", "XDG_"))]
