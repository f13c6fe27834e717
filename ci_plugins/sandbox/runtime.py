"""Which OCI runtime to use."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ci_plugins.errors import EngineUnavailable

#: Not every PATH has these, root's in cron and some CI shells for one.
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Runtime:
    name: str
    executable: str


def find_runtime(cgroups: Path = Path("/sys/fs/cgroup"), path: str | None = None) -> Runtime:
    """runc, which works everywhere; else crun, except on a hybrid control group hierarchy, which it refuses.

    `path` is where to look, by default $PATH and the system's directories. Raises EngineUnavailable.
    """
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}" if path is None else path
    if runc := shutil.which("runc", path=path):
        return Runtime("runc", runc)
    crun = shutil.which("crun", path=path)
    if crun and not is_hybrid(cgroups):
        return Runtime("crun", crun)
    found = "crun is installed, but refuses this machine's hybrid control groups" if crun else "none was found"
    raise EngineUnavailable(
        f"RUN steps need an OCI runtime: {found}",
        remedy="Install one: apt-get install runc" + ("." if crun else " (or crun)."),
    )


def is_hybrid(cgroups: Path) -> bool:
    """Version 1 controllers with version 2 beside them, as systemd mounts them in its hybrid mode."""
    return not (cgroups / "cgroup.controllers").exists() and (cgroups / "unified" / "cgroup.procs").exists()
