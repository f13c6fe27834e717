"""The process that keeps one container: it mounts, runs the OCI runtime, waits, and takes everything with it.

    builder ── outer: dies with the builder's thread, passes SIGTERM on
                 └── inner: process 1 of a PID namespace, in a mount namespace: overlay, runtime, container

Whatever ends the inner process ends every process of the container and every mount: the kernel sees to it. Since that
is all that is needed to clean up, a builder that is killed by SIGKILL leaves neither processes nor mounts.

SIGTERM ends the container, once the runtime has finished starting it: so nothing of the runtime's is left either.

Works on a directory the builder has prepared (sandbox/container.py names the files). Its standard output becomes the
container's standard output and error, one stream in the order things were written; its standard error is its own.
The outcome goes into the file `outcome`: "exited CODE", "signalled NUMBER", "runtime CODE" (the runtime failed, its log
says why) or "system ERRNO WHAT". Imports little on purpose: starting it is part of every RUN step.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

from ci_plugins.sandbox import mounts


def main(builder: int, directory: str, name: str, lowers: int, runtime: str) -> None:
    """Never returns: the interpreter's own shutdown has nothing to do here and takes its time.

    `builder` is the process that must be alive, `name` the container's id, `runtime` the runtime's executable.
    """
    mounts.die_with_parent(signal.SIGKILL)
    if os.getppid() != builder:
        os._exit(1)
    os.umask(0o022)
    alive, _kept_open = os.pipe()
    try:
        mounts.leave_children_to_new_pid_namespace()
    except OSError as error:
        _report(directory, _system(error))
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    inner = os.fork()
    if inner == 0:
        os.close(_kept_open)
        _keep(alive, directory, name, lowers, runtime)
        os._exit(0)
    _on_sigterm(inner, signal.SIGTERM)
    os.close(sys.stdout.fileno())
    os.waitpid(inner, 0)
    os._exit(0)


def _keep(alive: int, directory: str, name: str, lowers: int, runtime: str) -> None:
    """The life of the inner process."""
    mounts.die_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(alive, 0)
    if poll.poll(0):  # the outer process was gone before its death could reach this one
        return
    try:
        mounts.enter_private_mounts()
        mounts.mount("proc", "/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
        mounts.mount_overlay(f"{directory}/links", lowers, f"{directory}/rootfs")
        outcome = _run(directory, name, runtime)
    except OSError as error:
        outcome = _system(error)
    _report(directory, outcome)


def _run(directory: str, name: str, runtime: str) -> str:
    """Run the container to its end and remove what the runtime keeps of it.

    Detached, because only then the container writes to our stream itself: an attached runtime copies from one pipe
    for output and another for errors, and their order is lost.
    """
    common = [runtime, "--root", f"{directory}/state", "--log", f"{directory}/log", "--log-format", "json"]
    pid_file = f"{directory}/pid"
    started = _spawn([*common, "run", "--detach", "--pid-file", pid_file, "--bundle", directory, name])
    os.close(sys.stdout.fileno())
    _, status = os.waitpid(started, 0)
    if status != 0:
        outcome = f"runtime {os.waitstatus_to_exitcode(status)}"
    else:
        with open(pid_file) as file:
            outcome = _wait_for(int(file.read()))
    devnull = os.open(os.devnull, os.O_RDWR)
    os.waitpid(_spawn([*common, "delete", "--force", name], devnull), 0)
    return outcome


def _spawn(argv: list[str], output: int = 1) -> int:
    return os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)],
        # the command would inherit what is ignored (by the interpreter, nohup, a CI agent) and what is blocked here
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        setsigmask=[],
    )


def _wait_for(container: int) -> str:
    """Reap whatever ends here, as process 1 must, until the container has ended."""
    _on_sigterm(container, signal.SIGKILL)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == container:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code = os.waitstatus_to_exitcode(status)
            return f"exited {code}" if code >= 0 else f"signalled {-code}"


def _on_sigterm(pid: int, number: int) -> None:
    """From now on, SIGTERM (blocked until here) sends a signal to that child."""

    def send(*_: object) -> None:
        # it may have ended by itself this moment
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    signal.signal(signal.SIGTERM, send)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _system(error: OSError) -> str:
    return f"system {error.errno} {error.filename}"


def _report(directory: str, outcome: str) -> None:
    temporary = f"{directory}/outcome.new"
    with open(temporary, "w") as file:
        file.write(outcome)
    os.replace(temporary, f"{directory}/outcome")
