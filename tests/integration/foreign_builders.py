"""Builders of other people, each with a store of its own: podman (buildah), BuildKit, and Docker's classic builder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.dockerd import Dockerd, missing

#: Builds a context, ARGs given, and pushes the image: (context, tag, build arguments).
Builder = Callable[[Path, str, Mapping[str, str]], None]


@contextmanager
def podman(folder: Path) -> Iterator[Builder]:
    """buildah's library, with a layer a step."""
    if shutil.which("podman") is None:
        pytest.fail("podman is missing (Debian package podman)")
    folder.mkdir()
    registries = folder / "registries.conf"
    registries.write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(registries)}
    store = ("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs")

    def call(*arguments: str) -> None:
        command = ("podman", *store, *arguments)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0, f"{' '.join(command)}: code {done.returncode}\n{done.stdout}{done.stderr}"

    def build(context: Path, tag: str, args: Mapping[str, str]) -> None:
        how = ("--isolation", "chroot", "--network", "host", "--layers", "--tls-verify=false")
        call("build", *how, *_flags(args), "--tag", tag, str(context))
        call("push", "--tls-verify=false", tag)

    try:
        yield build
    finally:
        call("system", "reset", "--force")


@contextmanager
def buildkit(folder: Path) -> Iterator[Builder]:
    """The BuildKit inside dockerd, by docker buildx: an index with attestations is what it pushes."""
    if reason := missing():
        pytest.skip(reason)
    with Dockerd.start(folder) as docker:

        def build(context: Path, tag: str, args: Mapping[str, str]) -> None:
            docker("buildx", "build", "--network", "host", "--push", *_flags(args), "--tag", tag, str(context))

        yield build


@contextmanager
def classic(folder: Path) -> Iterator[Builder]:
    """docker build as it was before BuildKit, which dockerd still has."""
    if reason := missing():
        pytest.skip(reason)
    with Dockerd.start(folder, containerd_store=False) as docker:
        environment = docker.environment({"DOCKER_BUILDKIT": "0"})

        def build(context: Path, tag: str, args: Mapping[str, str]) -> None:
            command = ("docker", "build", "--network", "host", *_flags(args), "--tag", tag, str(context))
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, env=environment
            )
            assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
            docker("push", tag)

        yield build


def _flags(args: Mapping[str, str]) -> list[str]:
    return [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
