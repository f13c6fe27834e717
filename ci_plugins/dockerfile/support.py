"""What a native engine does not execute today. The parser knows all of it; this names it."""

from __future__ import annotations

import re
from typing import Final

from ci_plugins.dockerfile.instructions import Add, Instruction, Run

_REMOTE: Final = re.compile(r"(https?|git|ssh)://|[A-Za-z0-9_]+@[A-Za-z0-9.\-]+:", re.IGNORECASE)


def unsupported(instruction: Instruction) -> str | None:
    """The name of the first thing refused in an expanded instruction, e.g. "RUN --mount=type=cache"; else None."""
    match instruction:
        case Run():
            return _run(instruction)
        case Add():
            return _add(instruction)
        case _:
            return None


def _run(run: Run) -> str | None:
    for mount in run.mounts:
        if mount.type != "cache":
            return f"RUN --mount=type={mount.type}"
        if mount.get("source") and not mount.get("from"):
            return "RUN --mount=type=cache with source= and without from="
    if run.security == "insecure":
        return "RUN --security=insecure"
    return "RUN --device" if run.devices else None


def _add(add: Add) -> str | None:
    if add.checksum:
        return "ADD --checksum"
    if add.keep_git_dir is not None:
        return "ADD --keep-git-dir"
    remote = next((source for source in add.sources if _REMOTE.match(source)), None)
    return f"ADD of a URL or git repository ({remote})" if remote else None
