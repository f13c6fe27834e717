"""What starting the program costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import DockerRegistry

HEAVY = {
    "argparse",
    "boto3",
    "botocore",
    "isal",
    "jinja2",
    "requests",
    "rich",
    "tenacity",
    "urllib3",
    "yaml",
    "zstandard",
}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("import ci_plugins.cli") & HEAVY


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_answering_without_work_loads_nothing_heavy(option: str) -> None:
    statement = "import ci_plugins.cli, contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    statement += f"    try: ci_plugins.cli.main([{option!r}])\n    except SystemExit: pass\nimport sys"
    assert not loaded_by(statement) & HEAVY


def test_a_build_that_appends_loads_nothing_it_does_not_use(tmp_path: Path, registry: DockerRegistry) -> None:
    """No RUN, no failure, no terminal, no configuration file; with a report."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (tmp_path / "file").write_text("one")
    tag = f"{registry.host}/start-up/app"
    argv = ["build", str(tmp_path), "--tag", tag, "--push", "--state", str(tmp_path / "state")]
    argv += ["--report-dir", str(tmp_path / "report")]
    statement = (
        "import contextlib, io\nfrom ci_plugins.cli import main\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    )
    statement += f"    assert main({argv!r}) == 0\nimport sys"
    loaded = loaded_by(statement)
    assert {"requests", "jinja2"} <= loaded, "the test should see what is used"
    unused = {"argparse", "asyncio", "boto3", "redis", "rich", "tenacity", "yaml"}
    unused |= {"ci_plugins.engine.native", "ci_plugins.foreign", "ci_plugins.storage.oci_layout", "ci_plugins.upkeep"}
    assert not loaded & unused


def test_importing_the_command_line_takes_less_than_100_ms() -> None:
    """The best of several: a busy machine makes single ones slow, a heavy import makes all of them slow."""

    def seconds(statement: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - started

    bare = min(seconds("pass") for _ in range(5))
    assert min(seconds("import ci_plugins.cli") for _ in range(5)) - bare < 0.1
