"""The command line against a pipeline that only pretends: what is printed where, written, and exited with."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ci_plugins import __version__, cli
from ci_plugins.errors import AuthenticationFailed, Interrupted, Location, StepFailed
from ci_plugins.events import Recorder
from ci_plugins.oci import Descriptor, sha256_digest
from ci_plugins.options import BuildOptions

MANIFEST = Descriptor("application/vnd.oci.image.manifest.v1+json", sha256_digest(b"manifest"), 8)
CONFIG = sha256_digest(b"config")


def pretend(options: BuildOptions, recorder: Recorder) -> SimpleNamespace:
    with recorder.span("build", "localhost:5000/app:1") as build:
        with recorder.span("step", "RUN make", build, stage="stage-0", number=1, total=1, instruction="RUN") as step:
            with recorder.span("run", "RUN make", step) as run:
                run.line("compiling")
    tags = tuple(str(tag) for tag in options.tags)
    return SimpleNamespace(manifest=MANIFEST, digest=MANIFEST.digest, config_digest=CONFIG, tags=tags, outputs=())


class Pipeline:
    """Stands in for ci_plugins.pipeline; `build` can be replaced."""

    def __init__(self) -> None:
        self.build: Callable[[BuildOptions, Recorder], object] = pretend


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pipeline:
    stand_in = Pipeline()
    module = ModuleType("ci_plugins.pipeline")
    module.build = lambda options, recorder: stand_in.build(options, recorder)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ci_plugins.pipeline", module)
    monkeypatch.setattr("ci_plugins.pipeline", module, raising=False)
    monkeypatch.chdir(tmp_path)
    return stand_in


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


def test_results_go_to_stdout_and_progress_to_stderr(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "-t", "localhost:5000/app:1", "--push"]) == 0
    out, err = capsys.readouterr()
    assert "pushed localhost:5000/app:1\n" in out
    assert f"digest {MANIFEST.digest}\n" in out
    assert "[stage-0 1/1] RUN make" in out
    assert "#1 [stage-0 1/1] RUN make\n" in err
    assert "compiling" in err
    assert "compiling" not in out


def test_quiet_prints_the_digest_alone(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "-q"]) == 0
    assert tuple(capsys.readouterr()) == (f"{MANIFEST.digest}\n", "")


def test_files_with_ids_and_reports_are_written(pipeline: Pipeline, tmp_path: Path) -> None:
    assert cli.main(["build", "-t", "a:1", "--iidfile=iid", "--metadata-file=meta.json", "--report-dir=deep/er"]) == 0
    assert (tmp_path / "iid").read_text() == CONFIG
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "containerimage.config.digest": CONFIG,
        "containerimage.descriptor": {"mediaType": MANIFEST.media_type, "digest": MANIFEST.digest, "size": 8},
        "containerimage.digest": MANIFEST.digest,
        "image.name": "docker.io/library/a:1",
    }
    assert json.loads((tmp_path / "deep/er/timing.json").read_text())["succeeded"] is True
    assert sorted(os.listdir(tmp_path)) == ["deep", "iid", "meta.json"]


def test_a_failed_build_leaves_a_report_and_no_ids(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: BuildOptions, recorder: Recorder) -> None:
        with recorder.span("build", "x") as build, recorder.span("step", "RUN false", build, number=1):
            raise StepFailed("RUN false: exited with code 1", where=Location(str(tmp_path / "Dockerfile"), 2))

    (tmp_path / "iid").write_text("of an earlier build")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nRUN false\n")
    pipeline.build = fail
    assert cli.main(["build", "--iidfile=iid", "--report-dir=report"]) == StepFailed.exit_code
    out, err = capsys.readouterr()
    assert "FAILED" in out
    assert err.endswith(
        f"error: {tmp_path}/Dockerfile:2:1: RUN false: exited with code 1\n"
        f"     1 | FROM scratch\n>    2 | RUN false\nnext: {StepFailed.default_remedy}\n"
    )
    assert not (tmp_path / "iid").exists()
    document = json.loads((tmp_path / "report/timing.json").read_text())
    assert document["succeeded"] is False
    assert document["steps"][0]["state"] == "failed"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["biuld"], 2, "unknown command biuld"),
        (["build", "--cache-from=x"], 2, "--cache-from of docker build is not an option here"),
        (["build", "--iidfile=no/such/iid"], 2, "--iidfile: there is no directory no/such"),
        (["build", "--report-dir=file/report"], 2, "--report-dir: cannot make the directory file/report"),
    ],
)
def test_bad_usage_is_one_paragraph(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert "\nnext: " in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2


def test_an_error_of_the_configuration_shows_no_neighbouring_secret(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ci-plugins.yml").write_text("network_profile:\n  env: {TOKEN: hunter2}\npush: 3\n")
    assert cli.main(["build"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: ci-plugins.yml:3:7: push: expected true or false")
    assert "hunter2" not in err


def test_every_error_ends_with_its_own_code(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: BuildOptions, recorder: Recorder) -> None:
        raise AuthenticationFailed("registry.example: wrong \x1b[31mpassword")

    pipeline.build = fail
    assert cli.main(["build"]) == AuthenticationFailed.exit_code
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_once(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    cleaned = []

    def interrupted(options: BuildOptions, recorder: Recorder) -> None:
        try:
            signal.raise_signal(number)
        except Interrupted:
            signal.raise_signal(number)  # the impatient: cleaning up goes on
            cleaned.append(True)
            raise

    pipeline.build = interrupted
    assert cli.main(["build"]) == code
    assert cleaned
    assert f"stopped by {number.name}" in capsys.readouterr().err


def test_a_bug_is_confessed_without_a_stack_trace(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    def bug(options: BuildOptions, recorder: Recorder) -> None:
        raise ZeroDivisionError("division by zero")

    pipeline.build = bug
    assert cli.main(["build"]) == 1
    err = capsys.readouterr().err
    assert "error: unexpected ZeroDivisionError: division by zero" in err
    assert "Please report it" in err
    assert "Traceback" not in err
    assert cli.main(["build", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_main_inner_raises(pipeline: Pipeline) -> None:
    def fail(options: BuildOptions, recorder: Recorder) -> None:
        raise AuthenticationFailed("no")

    pipeline.build = fail
    with pytest.raises(AuthenticationFailed):
        cli.main_inner(["build"], {})


def test_serve_is_told_where_and_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[Path, str, int]] = []

    def run(root: Path, host: str, port: int, on_ready: Callable[[str], None], log: Callable[[str], None]) -> None:
        calls.append((root, host, port))
        on_ready("127.0.0.1:4711")
        log("GET /v2/ 200")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ci_plugins.serve", SimpleNamespace(run=run))
    monkeypatch.setattr("ci_plugins.serve", SimpleNamespace(run=run), raising=False)
    assert cli.main(["serve", "--root=r", "--port=0"]) == 0
    assert tuple(capsys.readouterr()) == ("registry of r listening on 127.0.0.1:4711\n", "GET /v2/ 200\n")
    assert calls == [(Path("r"), "127.0.0.1", 0)]


def test_version_and_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ci-plugins {__version__}\n"
    assert cli.main([]) == 0
    assert "Usage: ci-plugins COMMAND" in capsys.readouterr().out
    assert cli.main(["build", "-h"]) == 0
    assert "--memory-budget" in capsys.readouterr().out
