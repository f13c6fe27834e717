"""From how a container ended to an error that helps."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

from ci_plugins.engine.protocol import CommandFailed, RunRequest
from ci_plugins.errors import BuildError, EngineUnavailable, SandboxError
from ci_plugins.sandbox.container import Died, Exited, Outcome, RuntimeFailed, SystemRefused

#: Longer commands (heredocs) are shown by their beginning.
_SHOWN = 200

_MACHINE = "Run the CI job in a privileged container or on a virtual machine."

#: Shells' codes for a command that is there but cannot be executed, and for one that is not there.
NOT_EXECUTABLE, NOT_FOUND = 126, 127


def explain(outcome: Outcome, request: RunRequest, last_lines: tuple[str, ...], scratch: Path) -> BuildError | None:
    """The error to raise, None if all is well."""
    match outcome:
        case Exited(0):
            return None
        case Exited(code):
            return _exited(code, request, last_lines)
        case RuntimeFailed(message):
            return _not_started(message, request)
        case SystemRefused(number, what):
            return _refused(number, what, scratch)
        case Died(complaints):
            reason = complaints.rpartition("\n")[2] or "it was killed from outside"
            return SandboxError(
                f"the container's supervisor ended while a command ran: {reason}",
                remedy="Check the machine's memory and the limits of the CI job, then build again.",
            )


def _exited(code: int, request: RunRequest, last_lines: tuple[str, ...]) -> CommandFailed:
    message, remedy = f"{_command(request)} exited with code {code}", None
    if code == 128 + signal.SIGKILL:
        message += " (killed by SIGKILL)"
        remedy = (
            "Nothing in the build sends SIGKILL: most often the kernel does when memory is used up. "
            "Give the machine or the CI job more memory, or let the command use less."
        )
    elif 128 < code < 128 + signal.NSIG and (code - 128) in signal.valid_signals():
        message += f" (as after {signal.Signals(code - 128).name})"
    return CommandFailed(message, code=code, last_lines=last_lines, remedy=remedy)


def _not_started(message: str, request: RunRequest) -> BuildError:
    """The runtime says what it tried last; what concerns the command is the Dockerfile's fault, not the machine's."""
    program = request.argv[0] if request.argv else ""
    lower = message.lower()
    if re.search(r"executable file .*not found", lower) or re.search(r"exec: .*no such file or directory", lower):
        reason = "no such file" if "/" in program else "not found in $PATH"
        return CommandFailed(
            f"{program}: {reason} in the image; {_command(request)} exited with code {NOT_FOUND}",
            code=NOT_FOUND,
            remedy="Install it in an earlier step, correct its name, or choose another shell with SHELL.",
        )
    if re.search(r"exec: .*(permission denied|is a directory)|open executable: permission denied", lower):
        return CommandFailed(
            f"{program}: permission denied; {_command(request)} exited with code {NOT_EXECUTABLE}",
            code=NOT_EXECUTABLE,
            remedy="Make it executable in an earlier step (chmod +x, or COPY --chmod=755).",
        )
    if "chdir" in lower:
        return CommandFailed(
            f"cannot enter the working directory {request.working_dir}: {message.rpartition(': ')[2]}",
            code=NOT_EXECUTABLE,
            remedy="Correct WORKDIR, or let the user of the step enter that directory.",
        )
    return SandboxError(f"the container could not be started: {message}", remedy=_MACHINE)


def _refused(number: int, what: str, scratch: Path) -> BuildError:
    reason = errno.errorcode.get(number, str(number))
    if number in (errno.EPERM, errno.EACCES):
        return EngineUnavailable(
            f"the kernel does not permit containers here ({what}: {reason})",
            remedy=_MACHINE,
        )
    if what.startswith("mount overlay") and number == errno.ENODEV:
        return EngineUnavailable("the kernel has no overlay file system", remedy="Load it: modprobe overlay.")
    if what.startswith("mount overlay"):
        return EngineUnavailable(
            f"the file system of {scratch} cannot hold the layers of an overlay ({reason})",
            remedy="Name a directory on ext4, xfs or btrfs with --state; in a container: one on a volume.",
        )
    return SandboxError(f"the container could not be started ({what}: {reason})", remedy=_MACHINE)


def _command(request: RunRequest) -> str:
    text = " ".join(request.argv).replace("\n", "⏎")
    return f'"{text if len(text) <= _SHOWN else text[:_SHOWN] + "…"}"'
