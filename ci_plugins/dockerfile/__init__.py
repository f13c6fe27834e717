"""Dockerfile: text → nodes (parser) → typed instructions (convert, instructions) → stages.

BuildKit is the reference for what a Dockerfile means. Nothing here touches a registry, the build context or an engine.
"""

from ci_plugins.dockerfile.convert import parse_instruction
from ci_plugins.dockerfile.excerpt import excerpt
from ci_plugins.dockerfile.expand import Scope
from ci_plugins.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Mount,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from ci_plugins.dockerfile.ports import exposed_ports
from ci_plugins.dockerfile.stages import Dockerfile, Stage, load_dockerfile, parse_dockerfile, stage_references
from ci_plugins.dockerfile.support import unsupported

__all__ = [
    "Add",
    "Arg",
    "Cmd",
    "Command",
    "Copy",
    "Dockerfile",
    "Entrypoint",
    "Env",
    "ExecForm",
    "Expose",
    "From",
    "Healthcheck",
    "Heredoc",
    "Instruction",
    "Label",
    "Maintainer",
    "Mount",
    "Onbuild",
    "Run",
    "Scope",
    "Shell",
    "ShellForm",
    "Stage",
    "StopSignal",
    "User",
    "Volume",
    "Workdir",
    "excerpt",
    "exposed_ports",
    "load_dockerfile",
    "parse_dockerfile",
    "parse_instruction",
    "stage_references",
    "unsupported",
]
