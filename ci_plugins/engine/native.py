"""The native engine: an overlay of snapshots, an OCI runtime, no daemon."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import threading
from pathlib import Path

from ci_plugins.engine.failure import NOT_EXECUTABLE, explain
from ci_plugins.engine.output import LineReader
from ci_plugins.engine.protocol import CommandFailed, RunRequest
from ci_plugins.engine.scratch import Scratch
from ci_plugins.errors import ConfigError, EngineUnavailable, Interrupted, SandboxError, state_errors
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.users import User
from ci_plugins.sandbox.bundle import DEFAULT_PATH, Mount, Process, directory_mount, file_mount, runtime_config
from ci_plugins.sandbox.container import Container, Exited, Outcome, link_overlay, remove_containers
from ci_plugins.sandbox.graft import MountPoint, copy_attributes, graft_directory, graft_mount_points
from ci_plugins.sandbox.runtime import Runtime, find_runtime
from ci_plugins.sandbox.union import Union

_RESOLV_CONF, _HOSTS = "/etc/resolv.conf", "/etc/hosts"
_MOUNT_POINTS = (
    MountPoint("/proc", is_directory=True),
    MountPoint("/sys", is_directory=True),
    MountPoint("/dev", is_directory=True),
    MountPoint(_RESOLV_CONF, is_directory=False),
    MountPoint(_HOSTS, is_directory=False),
)

#: How soon a silent command is noticed to be cancelled, in seconds.
_CANCEL_LATENCY = 0.05


class NativeEngine:
    """Runs commands in containers. `scratch` is for what lasts as long as a command; made if it does not exist.

    Raises EngineUnavailable when made where it cannot work at all; `probe` looks deeper.
    """

    def __init__(self, scratch: Path, runtime: Runtime | None = None) -> None:
        if os.geteuid() != 0:
            raise EngineUnavailable(
                "RUN steps need root: they mount file systems and start containers",
                remedy="Run the command as root (sudo), in CI in a privileged container.",
            )
        self._runtime = runtime or find_runtime()
        self._scratch = Scratch(scratch)
        with self._scratch.abandoned() as directories:
            for directory in directories:
                remove_containers(directory, self._runtime)

    def run(self, request: RunRequest, span: ActiveSpan, cancel: threading.Event) -> None:
        """See Engine.run."""
        if cancel.is_set():
            raise Interrupted("interrupted before the command started")
        reader = LineReader(span.line)
        with self._scratch.directory() as directory:
            lowers = _prepare(request, directory)
            outcome = self._execute(directory, lowers, reader, cancel)
        if cancel.is_set() and outcome != Exited(0):
            raise Interrupted("interrupted while a command ran")
        if error := explain(outcome, request, reader.tail, self._scratch.path):
            raise error

    def _execute(self, directory: Path, lowers: int, reader: LineReader, cancel: threading.Event) -> Outcome:
        container = Container(directory, f"ci-plugins-{secrets.token_hex(8)}", lowers, self._runtime)
        try:
            for data in container.output(_CANCEL_LATENCY):
                reader.feed(data)
                if cancel.is_set():
                    container.kill()
            reader.close()
        except BaseException:
            container.kill()
            raise
        finally:
            outcome = container.wait()
        return outcome


def probe(scratch: Path) -> str | None:
    """Why the native engine cannot work here, with its scratch and upper directories in `scratch`; None if it can.

    Tries it: a container without any file gets as far as not finding its command.
    """
    cannot_exist = ("/ci-plugins-probe",)
    try:
        engine = NativeEngine(scratch)
        with (
            tempfile.TemporaryDirectory(prefix="probe-", dir=scratch) as upper,
            Recorder().span("run", "probe") as span,
        ):
            root = User(0, 0, (0,), "/")
            engine.run(RunRequest(cannot_exist, {}, "/", root, (), Path(upper)), span, threading.Event())
    except CommandFailed:
        return None
    except (EngineUnavailable, SandboxError) as error:
        return f"{error.message}. {error.remedy}".strip()
    return None


def _prepare(request: RunRequest, directory: Path) -> int:
    """Write all that the supervisor needs into `directory`; returns the number of lower directories."""
    if next(request.upper.iterdir(), None) is not None:
        raise SandboxError(f"{request.upper} must be empty: it is to hold what this step changes")
    union = Union(request.lowers)
    with state_errors(directory):
        mount_points = directory / "mount-points"
        mount_points.mkdir()
        targets = [MountPoint(bind.target, is_directory=True) for bind in request.binds]
        resolved = graft_mount_points(union, (*_MOUNT_POINTS, *targets), mount_points)
        _prepare_upper(request, union)
        needed = any(mount_points.iterdir())
        lowers = (mount_points, *request.lowers) if needed else request.lowers
        link_overlay(directory, lowers, request.upper)
        mounts = [directory_mount(b.source, resolved[b.target], readonly=b.readonly) for b in request.binds]
        mounts += _file_mounts(request, resolved, directory / "files")
        process = Process(request.argv, _environment(request), request.working_dir, request.user)
        config = runtime_config(directory / "rootfs", process, request.hostname, request.network == "none", mounts)
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(lowers)


def _prepare_upper(request: RunRequest, union: Union) -> None:
    """The upper directory's own attributes become those of the root directory; the working directory goes into it if
    the image has none, owned by the user (BuildKit, executor/runcexecutor)."""
    request.upper.chmod(0o755)
    os.chown(request.upper, 0, 0)
    working_dir = union.resolve(request.working_dir)
    if working_dir.places and not working_dir.is_directory:
        raise CommandFailed(
            f"the working directory {request.working_dir} is not a directory in the image",
            code=NOT_EXECUTABLE,
            remedy="Correct WORKDIR.",
        )
    if not working_dir.places:
        graft_directory(union, working_dir.path, request.upper, (request.user.uid, request.user.gid))
    elif (root := union.directory("")) is not None:
        copy_attributes(root, request.upper)


def _file_mounts(request: RunRequest, resolved: dict[str, str], directory: Path) -> list[Mount]:
    """Copies, so that a file of the host that is replaced meanwhile, or private to root, can be read all the time."""
    try:
        files = {_RESOLV_CONF: _host_file(_RESOLV_CONF), _HOSTS: _hosts(request), **request.profile.files()}
        files |= request.files
    except OSError as error:
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}",
            remedy="Correct network_profile.ca_certificates: it names a file of PEM certificates on this machine.",
        ) from error
    directory.mkdir()
    mounts = []
    for number, (destination, content) in enumerate(files.items()):
        file = directory / str(number)
        file.write_bytes(content)
        executable = destination in request.files
        file.chmod(0o755 if executable else 0o644)
        mounts.append(file_mount(file, resolved.get(destination, destination), executable=executable))
    return mounts


def _hosts(request: RunRequest) -> bytes:
    """With the host's network the host's names too, as `docker run --network host` has it."""
    own = f"127.0.0.1\tlocalhost {request.hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n".encode()
    return own + (_host_file(_HOSTS) if request.network == "host" else b"")


def _host_file(path: str) -> bytes:
    """Empty where this machine has none."""
    file = Path(path)
    return file.read_bytes() if file.exists() else b""


def _environment(request: RunRequest) -> dict[str, str]:
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": request.hostname, "HOME": request.user.home}
    return {**defaults, **request.profile.environment(), **request.environment}
