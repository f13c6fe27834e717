"""What the tests of the native engine run commands with."""

import os
import shutil
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci_plugins.engine.native import NativeEngine
from ci_plugins.engine.protocol import RunRequest
from ci_plugins.events import Event, OutputLine, Recorder
from ci_plugins.layer.users import User

ROOT = User(0, 0, (0,), "/root")


@dataclass
class Bench:
    """An engine, a stack of layers, and what the last command wrote."""

    path: Path
    lowers: tuple[Path, ...]
    engine: NativeEngine
    lines: list[str] = field(default_factory=list)
    upper: Path = Path()
    count: int = 0

    def run(self, command, *, cancel=None, environment=None, working_dir="/", user=ROOT, lines=None, **more) -> Path:
        """Run a shell command, or an argv; returns the upper directory."""
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        self.count += 1
        self.upper = upper = self.path / f"upper{self.count}"
        upper.mkdir()
        self.lines = seen = [] if lines is None else lines

        def listen(event: Event) -> None:
            if isinstance(event, OutputLine):
                seen.append(event.text)

        more.setdefault("lowers", self.lowers)
        request = RunRequest(argv, environment or {}, working_dir, user, upper=upper, **more)
        with Recorder([listen]).span("run", "test") as span:
            self.engine.run(request, span, cancel or threading.Event())
        return upper


def make_bench(path: Path, *lowers: Path) -> Bench:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    if shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin") is None:
        pytest.fail("runc is missing: apt-get install runc")
    return Bench(path, lowers, NativeEngine(path / "scratch"))


def tree(upper: Path) -> dict[str, str]:
    """Everything in an upper directory: path to kind ("d", "f", "l", "w" for a whiteout)."""
    found = {}
    for directory, names, files in os.walk(upper):
        for name in names + files:
            path = Path(directory, name)
            info = path.lstat()
            kind = next(k for k, test in _KINDS.items() if test(info))
            found[str(path.relative_to(upper))] = kind
    return found


_KINDS = {
    "w": lambda info: stat.S_ISCHR(info.st_mode) and info.st_rdev == 0,
    "d": lambda info: stat.S_ISDIR(info.st_mode),
    "l": lambda info: stat.S_ISLNK(info.st_mode),
    "f": lambda info: stat.S_ISREG(info.st_mode),
}
