"""What the repository promises outside the code: scripts, pinned versions, generated documents, documented commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ci_plugins
from ci_plugins.options import parse
from ci_plugins.options.emit import documents

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "bench/README.md"]
SCRIPTS = [path for path in [*sorted(ROOT.glob("script/*")), ROOT / ".ci/run"] if path.is_file()]
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")

#: programs that documents tell people to run beside ours, and that are not ours to check
OTHERS = {"cd", "docker", "git", "podman", "pip", "pipx", "runc", "skopeo", "umoci", "sudo", "rm", "cat", "xdg-open"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    if path.suffix == ".sh":
        assert first == "# shellcheck shell=bash", "sourced, not run: no interpreter line"
        return
    assert first in ("#!/usr/bin/env bash", "#!/usr/bin/env python3")
    assert path.stat().st_mode & stat.S_IXUSR
    if first.endswith("bash"):
        assert "\nset -euo pipefail\n" in path.read_text()


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("#")]
    assert [line for line in kept if not PIN.fullmatch(line)] == []
    return {normal(package): version for package, _, version in (line.partition("==") for line in kept)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def test_requirements_pin_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, dev = pins("runtime"), pins("dev")
    assert {normal(one) for one in project["dependencies"]} <= runtime.keys(), "run script/pin"
    assert {normal(one) for one in project["optional-dependencies"]["dev"]} <= dev.keys(), "run script/pin"
    assert runtime.items() <= dev.items(), "one version of everything: run script/pin"


def test_examples_pin_their_dependencies_and_name_no_host() -> None:
    python = (ROOT / "examples/python-web/requirements.txt").read_text().splitlines()
    assert [line for line in python if not PIN.fullmatch(line)] == []
    lock = json.loads((ROOT / "examples/node-web/package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all("integrity" in package and "resolved" not in package for package in packages.values())


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[?v?([^]\s]+)\]?", (ROOT / "CHANGELOG.md").read_text(), re.M)
    versions = [heading for heading in headings if heading.lower() != "unreleased"]
    assert ci_plugins.__version__ in versions[:1] or (not versions and headings)


@pytest.mark.parametrize("name", sorted(documents()))
def test_generated_documents_are_up_to_date(name: str) -> None:
    written = (ROOT / "docs" / name).read_text()
    assert written == documents()[name], "run: .venv/bin/python -m ci_plugins.options.emit docs"


# --- documented commands and links -----------------------------------------------------------------------------------


def commands(document: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of every command in the ```sh blocks of a document."""
    inside, pending, start = False, "", 0
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if line.strip().startswith("```"):
            inside = line.strip() == "```sh"
            continue
        if not inside:
            continue
        start = start if pending else number
        pending += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        for words in simple_commands(shlex.split(pending, comments=True)):
            yield start, words
        pending = ""


def simple_commands(words: list[str]) -> Iterator[list[str]]:
    """Of a line: those between &&, ;, | and without redirections, assignments and sudo."""
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", ";", "|", "&"):
            while command and (command[0] == "sudo" or re.fullmatch(r"\w+=.*", command[0])):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


def check(words: list[str], tmp_path: Path) -> str | None:
    """What is wrong with a documented command, or None."""
    program, *arguments = words
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    if program.startswith((".venv/bin/", "./")):
        program = program.removeprefix(".venv/bin/").removeprefix("./")
    if program.startswith(("script/", ".ci/")):
        return None if os.access(ROOT / program, os.X_OK) else "no such script"
    if program == "python" and arguments[:2] == ["-m", "ci_plugins"]:
        program, arguments = "ci-plugins", arguments[2:]
    if program == "ci-plugins":
        if arguments and arguments[0] in ("build", "plan", "cache", "serve"):
            parse(arguments, {"HOME": str(tmp_path)}, tmp_path)
        return None
    if program == "python" and arguments[0] == "-m":
        module = ROOT / Path(*arguments[1].split("."))
        ours = arguments[1].startswith(("ci_plugins", "bench", "tests"))
        return None if not ours or module.with_suffix(".py").exists() else f"no module {arguments[1]}"
    return None if program in OTHERS else f"{program} is neither ours nor among the known others"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_commands_exist(document: Path, tmp_path: Path) -> None:
    """Every flag is one the real parser takes, every script is there."""
    wrong = []
    for line, words in commands(document):
        if reason := check(words, tmp_path):
            wrong.append(f"{document.name}:{line}: {shlex.join(words)}: {reason}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in targets if not (document.parent / target.partition("#")[0]).exists()]
    assert not missing


def test_the_readme_shows_the_two_commands() -> None:
    shown = [words[0] for _, words in commands(ROOT / "README.md")]
    assert {"script/demo", "script/test"} <= set(shown)
