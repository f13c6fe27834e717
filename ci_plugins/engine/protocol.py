"""What an engine is asked, and what it answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ci_plugins.errors import StepFailed
from ci_plugins.events import ActiveSpan
from ci_plugins.layer.users import User
from ci_plugins.mounts.bind import Bind
from ci_plugins.sandbox.network_profile import NetworkProfile

Network = Literal["host", "none"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The command of one RUN step, and the files it runs on.

    `lowers` are snapshots, topmost first. `upper` is an empty directory that receives exactly what the command
    changed, in overlayfs' own form (whiteouts, opaque directories); it must be on a file system that allows that, the
    same as the engine's scratch directory. `environment` is what the image and the build arguments give; PATH, HOME
    and HOSTNAME are added where it lacks them. A `working_dir` that does not exist is made, as Docker does. `binds` are
    mounted in their order; their mount points never become part of `upper`.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str
    user: User
    lowers: tuple[Path, ...]
    upper: Path
    network: Network = "host"
    profile: NetworkProfile = field(default_factory=NetworkProfile)
    hostname: str = "ci-plugins"
    files: Mapping[str, bytes] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()


class CommandFailed(StepFailed):
    """`code` is what the command exited with: 128 + number after a signal, 126 and 127 as shells use them for a
    command that cannot be executed or found. `last_lines` is the end of what it wrote."""

    def __init__(self, message: str, *, code: int, last_lines: tuple[str, ...] = (), remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code
        self.last_lines = last_lines


class Engine(Protocol):
    def run(self, request: RunRequest, span: ActiveSpan, cancel: threading.Event) -> None:
        """Execute a command; what it writes, output and errors together, becomes lines of `span`.

        Thread safe. Returns, or raises, once no process and no mount of the command is left. Raises CommandFailed if
        it ended with another code than 0, SandboxError or EngineUnavailable if it could not be started, Interrupted
        soon after `cancel` is set. The upper directory is of use only after a return.
        """
