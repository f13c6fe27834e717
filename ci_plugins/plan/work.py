"""RUN, COPY and ADD as work, and how a step is written into the image's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ci_plugins.dockerfile.instructions import Add, Copy, Instruction, Run, ShellForm
from ci_plugins.layer.copy_request import CopyRequest
from ci_plugins.oci import ImageConfig
from ci_plugins.plan.image import command_line
from ci_plugins.plan.steps import BaseImage, CacheMount, CopyWork, Network, RunWork, Work

#: Where BuildKit puts a heredoc that is run as a file; /dev is not part of any layer.
_SCRIPTS = "/dev/pipes"


def run_work(
    run: Run,
    config: ImageConfig,
    environment: Mapping[str, str],
    *,
    network: Network,
    mounts: Sequence[CacheMount] = (),
) -> RunWork:
    """The command with its heredocs put where BuildKit puts them: a lone heredoc is the script itself (executed as a
    file if it begins with #!), others are handed to the shell as they stand."""
    chosen: Network = "none" if run.network == "none" else "host" if run.network == "host" else network
    command = run.command
    if isinstance(command, ShellForm) and (script := command.executable):
        path = f"{_SCRIPTS}/{script.name}"
        content = script.content.encode("utf-8", "surrogateescape")
        return RunWork((path,), environment, chosen, {path: content}, tuple(mounts))
    return RunWork(tuple(command_line(command, config)), environment, chosen, {}, tuple(mounts))


def copy_work(instruction: Copy | Add, config: ImageConfig, origin: int | BaseImage | None) -> CopyWork:
    request = CopyRequest(
        sources=instruction.sources,
        destination=instruction.destination,
        working_dir=config.working_dir,
        chmod=instruction.chmod,
        inline={doc.name: doc.content.encode("utf-8", "surrogateescape") for doc in instruction.heredocs},
        parents=isinstance(instruction, Copy) and instruction.parents,
        exclude=instruction.exclude,
        link=instruction.link,
        unpack_archives=isinstance(instruction, Add) and instruction.unpack is not False,
    )
    return CopyWork(request, instruction.chown, origin)


def created_by(instruction: Instruction, config: ImageConfig, args: Mapping[str, str], work: Work | None) -> str:
    """The history text, as BuildKit spells it: `RUN |1 VERSION=1 /bin/sh -c make`, `COPY a b`, `ENV A=b`."""
    if isinstance(work, RunWork):
        declared = "".join(f" {name}={value}" for name, value in args.items())
        return f"RUN {f'|{len(args)}{declared} ' if args else ''}{' '.join(work.argv)}"
    return " ".join(instruction.source.replace("\\\n", " ").split())
