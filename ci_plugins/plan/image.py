"""What an instruction does to the image config: known before anything runs (OCI image spec, config.md; names and
defaults as BuildKit writes them)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ci_plugins.dockerfile.instructions import (
    Cmd,
    Command,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from ci_plugins.dockerfile.ports import exposed_ports
from ci_plugins.dockerfile.predefined import DEFAULT_PATH
from ci_plugins.errors import DockerfileSyntaxError
from ci_plugins.oci import ImageConfig, Platform

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,9}")
# fmt: off
_SIGNALS: Final = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
})
# fmt: on
_REAL_TIME: Final = re.compile(r"RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?")


def scratch_config(platform: Platform) -> ImageConfig:
    """The config that FROM scratch begins with."""
    return ImageConfig(platform, config={"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"})


def apply(instruction: Instruction, config: ImageConfig, *, cmd_was_set: bool) -> ImageConfig:
    """The config after an expanded instruction. `cmd_was_set`: this Dockerfile had a CMD before, which an ENTRYPOINT
    keeps; one inherited from the base image is dropped. Instructions without effect on it return it as it is."""
    match instruction:
        case Env():
            return config.with_env(dict(instruction.pairs))
        case Workdir():
            return config.with_config(WorkingDir=absolute(config.working_dir, instruction.path))
        case User():
            return config.with_config(User=instruction.user)
        case Label():
            return config.with_config(Labels={**(config.config.get("Labels") or {}), **dict(instruction.pairs)})
        case Expose():
            return config.with_config(ExposedPorts={**(config.config.get("ExposedPorts") or {}), **_ports(instruction)})
        case Volume():
            volumes: dict[str, dict[str, str]] = {path: {} for path in instruction.paths}
            return config.with_config(Volumes={**(config.config.get("Volumes") or {}), **volumes})
        case Cmd():
            return config.with_config(Cmd=command_line(instruction.command, config), ArgsEscaped=None)
        case Entrypoint():
            line = command_line(instruction.command, config)
            return config.with_config(Entrypoint=line, **({} if cmd_was_set else {"Cmd": None}))
        case Shell():
            return config.with_config(Shell=list(instruction.argv))
        case StopSignal():
            return config.with_config(StopSignal=_signal(instruction))
        case Healthcheck():
            return config.with_config(Healthcheck=_healthcheck(instruction))
        case Onbuild():
            return config.with_config(OnBuild=[*(config.config.get("OnBuild") or ()), instruction.text])
        case Maintainer():
            return replace(config, author=instruction.author)
        case _:
            return config


def absolute(working_dir: str, path: str) -> str:
    """A WORKDIR argument as an absolute, clean path."""
    joined = posixpath.normpath(posixpath.join("/", working_dir, path))
    return "/" + joined.lstrip("/")


def command_line(command: Command, config: ImageConfig) -> list[str]:
    """What is executed: the array as it is, or the text handed to the stage's shell."""
    if isinstance(command, ExecForm):
        return list(command.argv)
    return [*config.shell(), command.script]


def _healthcheck(instruction: Healthcheck) -> dict[str, Any]:
    command = instruction.command
    if command is None:
        return {"Test": ["NONE"]}
    test = ["CMD", *command.argv] if isinstance(command, ExecForm) else ["CMD-SHELL", command.text]
    times = {
        "Interval": instruction.interval,
        "Timeout": instruction.timeout,
        "StartPeriod": instruction.start_period,
        "StartInterval": instruction.start_interval,
        "Retries": instruction.retries,
    }
    return {"Test": test, **{name: value for name, value in times.items() if value}}


def _signal(instruction: StopSignal) -> str:
    """As it is written, if engines know it (moby/sys/signal: a number, or a name with or without SIG)."""
    text = instruction.signal
    name = text.upper().removeprefix("SIG")
    if (_NUMBER.fullmatch(text) and int(text) != 0) or name in _SIGNALS or _REAL_TIME.fullmatch(name):
        return text
    raise DockerfileSyntaxError(
        f"STOPSIGNAL: there is no signal {text!r}",
        where=instruction.location,
        remedy="Write a name like SIGTERM, or a number.",
    )


def _ports(instruction: Expose) -> Mapping[str, dict[str, str]]:
    try:
        return {port: {} for text in instruction.ports for port in exposed_ports(text)}
    except ValueError as error:
        raise DockerfileSyntaxError(
            f"EXPOSE: {error}",
            where=instruction.location,
            remedy="Write a number, a range or either with a protocol: 80, 8000-8010, 53/udp.",
        ) from error
