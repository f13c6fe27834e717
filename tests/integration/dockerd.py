"""A private Docker Engine for tests and the benchmark: Docker as a client, and BuildKit to compare with.

    script/install-docker            # once: unpacks dockerd, containerd, docker and buildx under .state/docker (5 s)

    from tests.integration.dockerd import Dockerd, missing

    pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
    with Dockerd.start(tmp_path / "docker") as docker:                       # containerd image store (1 s)
        docker("pull", "127.0.0.1:5000/app:1")                              # → standard output, text
        docker("buildx", "build", "--push", "--tag", "127.0.0.1:5000/app:1", str(context))
        docker("run", "--rm", "--network=host", "127.0.0.1:5000/app:1")     # no bridge: only host or none
    with Dockerd.start(tmp_path / "docker", containerd_store=False) as docker:   # the older overlay2 store

Its data, its sockets and its client configuration are below the directory given; a Docker of the machine's own is
neither used nor seen. Registries on 127.0.0.1 and localhost are plain HTTP to it. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 20.0
#: the first Docker with an own image store in containerd good enough to push from
OLDEST = 23

_UNPACKED = Path(__file__).resolve().parents[2] / ".state" / "docker" / "usr"


@dataclass(frozen=True)
class Programs:
    """Where a Docker Engine's programs are."""

    path: str
    buildx: Path | None


def programs() -> Programs | None:
    """Those script/install-docker unpacked, else the machine's own when new enough, else none."""
    if (_UNPACKED / "sbin/dockerd").exists():
        path = f"{_UNPACKED / 'sbin'}:{_UNPACKED / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        return Programs(path, _UNPACKED / "libexec/docker/cli-plugins/docker-buildx")
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    dockerd = shutil.which("dockerd", path=search)
    if dockerd is None or shutil.which("docker", path=search) is None or _major(dockerd) < OLDEST:
        return None
    folders = ("/usr/libexec/docker", "/usr/local/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker")
    plugins = [Path(folder, "cli-plugins/docker-buildx") for folder in folders]
    return Programs(search, next((plugin for plugin in plugins if plugin.exists()), None))


def missing() -> str | None:
    """Why Docker cannot be used here, or None when it can."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    if programs() is None:
        return f"no Docker {OLDEST} or later here: script/install-docker fetches one"
    return None


@dataclass
class Dockerd:
    """A running daemon. Call it with the arguments of `docker`."""

    directory: Path
    programs: Programs
    process: subprocess.Popen[bytes]
    #: short: a socket's path may have 107 bytes
    run_directory: Path

    @property
    def host(self) -> str:
        return f"unix://{self.run_directory}/docker.sock"

    @property
    def log(self) -> str:
        return (self.directory / "dockerd.log").read_text(errors="replace")

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a client process started by hand."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "BUILDX_"))}
        client = {
            "PATH": self.programs.path,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.directory / "client"),
            "BUILDX_GIT_INFO": "false",
            "HOME": str(self.directory),
        }
        return {**kept, **client, **(extra or {})}

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 600) -> str:
        """Run `docker ARGUMENTS`; give its standard output back. A failure raises with everything it said."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise AssertionError(f"docker {' '.join(arguments)}: code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @classmethod
    @contextmanager
    def start(cls, directory: Path | str, *, containerd_store: bool = True) -> Iterator[Dockerd]:
        """Start it and wait until it answers. `directory` may hold an earlier daemon's data, which is used again."""
        found = programs()
        assert found is not None, missing()
        folder = Path(directory).resolve()
        (folder / "client/cli-plugins").mkdir(parents=True, exist_ok=True)
        plugin = folder / "client/cli-plugins/docker-buildx"
        plugin.unlink(missing_ok=True)
        if found.buildx is not None:
            plugin.symlink_to(found.buildx)
        with tempfile.TemporaryDirectory(prefix="dockerd-") as short, (folder / "dockerd.log").open("ab") as log:
            run_directory = Path(short)
            config = folder / "daemon.json"
            config.write_text(json.dumps(_config(folder, run_directory, containerd_store=containerd_store)))
            process = subprocess.Popen(
                ["dockerd", "--config-file", str(config)],
                env={**os.environ, "PATH": found.path, "OTEL_TRACES_EXPORTER": "none"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            docker = cls(folder, found, process, run_directory)
            try:
                docker._wait()
                yield docker
            finally:
                docker.stop()

    def stop(self) -> None:
        """SIGTERM lets it end its containers and its containerd; may be called again."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for folder in (self.run_directory, self.directory):
            _unmount_below(folder)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if (self.run_directory / "docker.sock").exists():
                try:
                    self("version")
                except AssertionError:
                    pass
                else:
                    return
            time.sleep(0.05)
        raise AssertionError(f"dockerd did not start:\n{self.log[-4000:]}")


def _config(folder: Path, run_directory: Path, *, containerd_store: bool) -> dict[str, object]:
    return {
        "data-root": str(folder / "data"),
        "exec-root": str(run_directory / "exec"),
        "pidfile": str(run_directory / "docker.pid"),
        "hosts": [f"unix://{run_directory}/docker.sock"],
        "group": "root",
        "features": {"containerd-snapshotter": containerd_store},
        "insecure-registries": ["127.0.0.0/8", "localhost"],
        # No bridge and no firewall rules: the machine's network stays as it is.
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
    }


def _unmount_below(folder: Path) -> None:
    """A daemon leaves its network namespaces mounted, and one that was killed its containers' file systems."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in reversed([path for path in mounted if path.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)


def _major(dockerd: str) -> int:
    text = subprocess.run([dockerd, "--version"], capture_output=True, text=True).stdout
    version = text.removeprefix("Docker version ").split(".")[0]
    return int(version) if version.isdigit() else 0
