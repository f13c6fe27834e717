"""Fixtures of the integration tests: a registry, base images, the command line as a program of its own."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.harness import Cli, RegistryTraffic, RunningImage
from tests.servers import DockerRegistry

ROOT = Path(__file__).resolve().parents[2]
#: kept between runs, like script/demo's: making a root file system takes half a minute
CACHE = ROOT / ".state" / "cache"
BUSYBOX = Path("/bin/busybox")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line on an empty runner."""
    (tmp_path / "home").mkdir()
    return Cli(tmp_path / "home", tmp_path / "state")


@pytest.fixture
def runner(tmp_path: Path) -> Callable[[], Cli]:
    """A new empty runner with every call."""
    numbers = iter(range(100))

    def new() -> Cli:
        folder = tmp_path / f"runner{next(numbers)}"
        (folder / "home").mkdir(parents=True)
        return Cli(folder / "home", folder / "state")

    return new


@pytest.fixture(scope="session")
def shared_cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line with one state for the whole session: what builds the base images."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "home").mkdir()
    return Cli(folder / "home", folder / "state")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Debian's docker-registry, one for the session: name repositories after the test."""
    with DockerRegistry.start(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def base_image(registry: DockerRegistry, shared_cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A static busybox with its commands linked, in the registry: a base of 2 MB that needs no network."""
    if not BUSYBOX.exists():
        pytest.fail("/bin/busybox is missing (Debian package busybox-static)")
    context = tmp_path_factory.mktemp("busybox")
    shutil.copy(BUSYBOX, context / "busybox")
    (context / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (context / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (context / "Dockerfile").write_text(
        "FROM scratch\n"
        "COPY busybox /bin/busybox\n"
        "COPY passwd group /etc/\n"
        'RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin"]\n'
        "RUN mkdir -m 1777 /tmp && mkdir -m 700 /root\n"
        'CMD ["sh"]\n'
    )
    return shared_cli.build(context, tag=f"{registry.host}/busybox:1").tag


@pytest.fixture(scope="session")
def network_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ci-plugins.yml with which RUN steps reach the package indexes this machine is set up for."""
    file = tmp_path_factory.mktemp("profile") / "ci-plugins.yml"
    file.write_text(
        subprocess.run([ROOT / "script/network-profile"], check=True, capture_output=True, text=True).stdout
    )
    return file


@pytest.fixture(scope="session")
def debian_base(registry: DockerRegistry, shared_cli: Cli) -> str:
    """This machine's distribution as a base image in the registry, made of its packages."""
    tar = CACHE / "debian" / "debian.tar"
    tar.parent.mkdir(parents=True, exist_ok=True)
    with (CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([ROOT / "script/debian-rootfs", tar], check=True)
    dockerfile = ROOT / "examples/debian-base/Dockerfile"
    return shared_cli.build(tar.parent, "--file", dockerfile, tag=f"{registry.host}/debian:1").tag


@pytest.fixture
def traffic(registry: DockerRegistry) -> RegistryTraffic:
    watch = RegistryTraffic(registry.log)
    watch.clear()
    return watch


@pytest.fixture
def run_image(tmp_path: Path) -> Iterator[Callable[..., RunningImage]]:
    """Run an image of a registry as somebody else would: skopeo fetches it, umoci unpacks it, runc runs it."""
    running: list[RunningImage] = []

    def start(reference: str, *, env: Mapping[str, str] | None = None) -> RunningImage:
        folder = tmp_path / f"run-{len(running)}"
        one = RunningImage.start(reference, folder, env or {})
        running.append(one)
        return one

    yield start
    for one in running:
        one.stop()
