"""What integration tests work with: our command line, a registry's log, and images run by other people's tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

#: by which a CI tells what it builds: what the tests are run by is none of their business
CI_VARIABLES = ("CI_", "GITHUB_", "GITEA_", "FORGEJO_", "ACT", "GITLAB_", "JENKINS_", "BRANCH_", "CHANGE_", "TAG_NAME")
#: settings of the machine that must not decide what a test sees
_DROPPED = ("DOCKER_", "BUILDX_", "REGISTRY_", "XDG_", "SOURCE_DATE_EPOCH", "PYTEST_", *CI_VARIABLES)


@dataclass(frozen=True)
class Cli:
    """`python -m ci_plugins` with a home directory and a state of its own. The state is an empty runner at first."""

    home: Path
    state: Path

    def __call__(
        self, *arguments: str | Path, check: bool = True, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command. With `check`, anything but success fails the test with all that was said."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(env),
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"ci-plugins {' '.join(map(str, arguments))}: code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "ci_plugins", *map(str, arguments)]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
        return {**kept, "HOME": str(self.home), "COLUMNS": "120", **(extra or {})}

    def build(
        self,
        context: Path,
        *arguments: str | Path,
        tag: str,
        push: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Built:
        """Build and push; give back what the metadata file and the timing report say."""
        report = self.home / "report"
        metadata = self.home / "metadata.json"
        pushed = ("--push",) if push else ()
        self(
            "build", context, "--tag", tag, *pushed, "--state", self.state, "--report-dir", report,
            "--metadata-file", metadata, "--progress", "plain", *arguments,
            env=env,
        )  # fmt: skip
        return Built(tag, json.loads(metadata.read_text()), json.loads((report / "timing.json").read_text()))


@dataclass(frozen=True)
class Built:
    """One build: the image's name, what buildx calls its metadata, and timing.json."""

    tag: str
    metadata: Mapping[str, Any]
    timing: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return str(self.metadata["containerimage.digest"])


@dataclass
class RegistryTraffic:
    """What was asked of a registry while it is watched."""

    log: Path
    _start: int = 0

    def clear(self) -> None:
        self._start = self.log.stat().st_size

    def requests(self) -> list[tuple[str, str]]:
        """(method, path) of every request since the last `clear`."""
        text = self.log.read_bytes()[self._start :].decode(errors="replace")
        return re.findall(r'"([A-Z]+) (/v2/\S*) HTTP/1\.1"', text)

    def uploads(self) -> list[tuple[str, str]]:
        """Those that bring bytes of a blob."""
        return [(method, path) for method, path in self.requests() if method == "PATCH" or _is_blob_put(method, path)]


def _is_blob_put(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and "/blobs/uploads/" in path


@dataclass
class RunningImage:
    """A container of runc's. `output` is complete after `wait`."""

    name: str
    bundle: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @classmethod
    def start(cls, reference: str, folder: Path, env: Mapping[str, str]) -> RunningImage:
        folder.mkdir()
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{folder / 'layout'}:image")
        bundle = folder / "bundle"
        run("umoci", "unpack", "--image", f"{folder / 'layout'}:image", str(bundle))
        file = bundle / "config.json"
        config = json.loads(file.read_text())
        # The network of the machine instead of an empty one, and no terminal: the rest is umoci's reading of the image.
        config["process"]["terminal"] = False
        config["process"]["env"] += [f"{name}={value}" for name, value in env.items()]
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]
        file.write_text(json.dumps(config))
        name, log = f"ci-plugins-test-{os.getpid()}-{folder.parent.name}-{folder.name}", folder / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["runc", "run", "--bundle", str(bundle), name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(name, bundle, log, process)

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def stop(self) -> None:
        if self.process.poll() is None:
            subprocess.run(["runc", "kill", self.name, "KILL"], check=False, capture_output=True)
            self.process.wait(10)
        subprocess.run(["runc", "delete", "--force", self.name], check=False, capture_output=True)


def run(*command: str) -> str:
    """Run a program; a failure fails the test with what it said."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed (Debian package {command[0]})")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
