import errno
from pathlib import Path

import pytest

from ci_plugins.engine.failure import explain
from ci_plugins.engine.protocol import CommandFailed, RunRequest
from ci_plugins.errors import EngineUnavailable, SandboxError, StepFailed
from ci_plugins.layer.users import User
from ci_plugins.sandbox.container import Died, Exited, RuntimeFailed, SystemRefused


def error(outcome, argv=("/bin/sh", "-c", "make"), last_lines=()):
    request = RunRequest(argv, {}, "/", User(0, 0, (0,), "/"), (), Path("/upper"))
    return explain(outcome, request, last_lines, Path("/state"))


def test_no_error():
    assert error(Exited(0)) is None


def test_a_failed_command_shows_code_and_last_lines():
    failed = error(Exited(2), last_lines=("a", "b"))
    assert isinstance(failed, StepFailed)
    assert failed.message == '"/bin/sh -c make" exited with code 2'
    assert (failed.code, failed.last_lines) == (2, ("a", "b"))


def test_a_long_command_is_shown_by_its_beginning_on_one_line():
    message = error(Exited(1), ("sh", "-c", "one\n" + "x" * 1000)).message
    assert len(message) < 300
    assert "\n" not in message


def test_sigkill_speaks_of_memory():
    assert "memory" in error(Exited(137)).remedy
    assert "SIGTERM" in error(Exited(143)).message


@pytest.mark.parametrize(
    ("message", "argv", "code"),
    [
        ('exec: "/x": stat /x: no such file or directory', ("/x",), 127),
        ('exec: "x": executable file not found in $PATH', ("x",), 127),
        ("executable file `x` not found in $PATH: No such file or directory", ("x",), 127),
        ('exec: "/etc": permission denied', ("/etc",), 126),
        ("open executable: Permission denied", ("/etc",), 126),
        ('chdir to cwd ("/root") set in config.json failed: permission denied', ("x",), 126),
    ],
)
def test_the_commands_own_faults_are_step_failures(message, argv, code):
    failed = error(RuntimeFailed(f"runc run failed: unable to start container process: {message}"), argv)
    assert isinstance(failed, CommandFailed)
    assert failed.code == code


def test_the_machines_faults_are_not():
    assert isinstance(error(RuntimeFailed("error mounting proc: operation not permitted")), SandboxError)
    assert "Traceback" not in str(error(Died("Traceback …\nKeyError: 'x'")))
    assert isinstance(error(SystemRefused(errno.EPERM, "unshare pid namespace")), EngineUnavailable)


def test_a_file_system_that_cannot_hold_an_overlay_is_named():
    refused = error(SystemRefused(errno.EINVAL, "mount overlay on /state/x"))
    assert isinstance(refused, EngineUnavailable)
    assert "/state" in refused.message
    assert "--state" in refused.remedy
