"""argv → options → pipeline → exit code. The only place that prints.

Results go to stdout: the timing table, the names and the digest; with --quiet the digest alone. Progress and errors go
to stderr. Everything heavy is imported once it is known to be needed.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from ci_plugins import __version__
from ci_plugins.errors import CiPluginsError, Interrupted, state_errors
from ci_plugins.options import (
    BuildOptions,
    CacheOptions,
    Detected,
    IndexOptions,
    Invocation,
    PlanOptions,
    ServeOptions,
    parse,
)

if TYPE_CHECKING:
    from types import FrameType

    from ci_plugins.events import Listener, Recorder
    from ci_plugins.pipeline import BuildResult

#: columns of the timing table where the output is not a terminal
_LOG_WIDTH = 120


class Terminated(Interrupted):
    """Interrupted by SIGTERM: the same, with the exit code shells expect."""

    exit_code = 143


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: returns the exit code; what went wrong is one paragraph on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a Latin-1 terminal is no reason to fail
    try:
        code = main_inner(arguments, os.environ)
        sys.stdout.flush()
        return code
    except CiPluginsError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return _complain(Interrupted("stopped"))
    except BrokenPipeError:
        # whoever read our output has gone; keep the interpreter from complaining about it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the last resort: a bug, told without a stack trace unless asked for
        return _confess(error, arguments)


def main_inner(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """As `main`, but raises."""
    invocation = parse(argv, environ, detect=_detect)
    match invocation.options:
        case BuildOptions() as options:
            _build(options, invocation)
        case PlanOptions() as options:
            _plan(options)
        case CacheOptions() as options:
            _cache(options)
        case IndexOptions() as options:
            _index(options)
        case ServeOptions() as options:
            _serve(options)
        case None if invocation.command == "version":
            print(f"ci-plugins {__version__}")
        case None:
            from ci_plugins.options.help import help_text

            print(help_text(invocation.topic, min(_width(sys.stdout), 100)), end="")
    return 0


def _detect(environ: Mapping[str, str]) -> Detected | None:
    """What the CI tells of scopes and trust."""
    from ci_plugins import ci

    found = ci.detect(environ)
    return Detected(found.name, found.scope, found.reads, found.trusts_foreign) if found else None


def _complain(error: CiPluginsError) -> int:
    from ci_plugins.report.problem import describe_error

    sys.stderr.write(describe_error(error))
    return error.exit_code


def _confess(error: Exception, arguments: Sequence[str]) -> int:
    if "--debug" in arguments or os.environ.get("CI_PLUGINS_DEBUG", "").lower() in ("1", "true", "yes", "on"):
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(
        f"error: unexpected {type(error).__name__}: {error}\n"
        f"next: this is a mistake in ci-plugins {__version__}, not yours. Please report it, with the output of the "
        "same command with --debug.\n"
    )
    return CiPluginsError.exit_code


# --- build ----------------------------------------------------------------------------------------------------------


def _build(options: BuildOptions, invocation: Invocation) -> None:
    _prepare_files(options, invocation)
    from ci_plugins import pipeline
    from ci_plugins.events import Recorder

    listener, screen = _progress(options)
    recorder = Recorder((listener,))
    try:
        with _stopped_by_signals(), screen:
            result = pipeline.build(options, recorder)
    except BaseException:
        _report_failure(options, recorder)
        raise
    _write_files(options, result)
    _report(options, recorder, succeeded=True)
    _print_result(options, result)


def _prepare_files(options: BuildOptions, invocation: Invocation) -> None:
    """Find out before the build, not after it, that a result cannot be written; leave no result of an earlier one."""
    for field, path in (("iidfile", options.iidfile), ("metadata_file", options.metadata_file)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise invocation.origins[field].error(f"there is no directory {path.parent}", remedy="Create it first.")
        with state_errors(path):
            path.unlink(missing_ok=True)
    if options.report_dir is not None:
        try:
            options.report_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot make the directory {options.report_dir}: {error.strerror}"
            raise invocation.origins["report_dir"].error(reason, remedy="Name another directory.") from error


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread, once: what cleans up after it is left in peace."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, lambda number, frame: None)
        name = signal.Signals(number).name
        raise (Terminated if number == signal.SIGTERM else Interrupted)(f"stopped by {name}")

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(options: BuildOptions) -> tuple[Listener, AbstractContextManager[object]]:
    """Who listens, and what is to be open as long as it does."""
    from ci_plugins.report.progress import FailedOutput, PlainProgress

    if options.quiet:
        return FailedOutput(_to(sys.stderr)), nullcontext()
    live = options.progress == "tty" or (options.progress == "auto" and _is_interactive(sys.stderr))
    if not live:
        return PlainProgress(_to(sys.stderr)), nullcontext()
    from rich.console import Console

    from ci_plugins.report.live import LiveProgress

    forced = True if options.progress == "tty" else None
    view = LiveProgress(Console(file=sys.stderr, force_terminal=forced, highlight=False))
    return view, view


def _report(options: BuildOptions, recorder: Recorder, *, succeeded: bool) -> None:
    if options.quiet and options.report_dir is None:
        return
    from ci_plugins.report import derive

    timeline = derive(
        recorder.spans(), warnings=recorder.warnings(), started_at=recorder.started_at, succeeded=succeeded
    )
    if not options.quiet and (timeline.steps or succeeded):
        from ci_plugins.report.terminal import render

        print()
        print(render(timeline, width=_width(sys.stdout), colour=_is_interactive(sys.stdout)), end="")
    if options.report_dir is not None:
        from ci_plugins.report.files import write_reports

        page = write_reports(timeline, options.report_dir)
        if not options.quiet:
            print(f"report {page}")


def _report_failure(options: BuildOptions, recorder: Recorder) -> None:
    """The build's own error is the one to end with: trouble with the report is only told."""
    try:
        _report(options, recorder, succeeded=False)
        sys.stdout.flush()
    except CiPluginsError as error:
        sys.stderr.write(f"warning: no report of the failed build: {error}\n")


def _write_files(options: BuildOptions, result: BuildResult) -> None:
    """--iidfile: the config's digest, as docker build writes it. --metadata-file: buildx' keys."""
    from ci_plugins.storage.files import write_atomically

    if options.iidfile is not None:
        with state_errors(options.iidfile):
            write_atomically(options.iidfile, result.config_digest.encode())
    if options.metadata_file is not None:
        import json

        metadata = {
            "containerimage.config.digest": result.config_digest,
            "containerimage.descriptor": result.manifest.to_json(),
            "containerimage.digest": result.digest,
        }
        if options.tags:
            metadata["image.name"] = ",".join(str(tag) for tag in options.tags)
        with state_errors(options.metadata_file):
            write_atomically(options.metadata_file, (json.dumps(metadata, indent=2) + "\n").encode())


def _print_result(options: BuildOptions, result: BuildResult) -> None:
    if options.quiet:
        print(result.digest)
        return
    for tag in result.tags:
        print(f"pushed {tag}")
    for output in result.outputs:
        print(f"wrote {output}")
    print(f"digest {result.digest}")


# --- plan -----------------------------------------------------------------------------------------------------------


def _plan(options: PlanOptions) -> None:
    from ci_plugins import preview
    from ci_plugins.events import Recorder

    with _stopped_by_signals():
        planned = preview.plan(options.build, Recorder())
    if options.json:
        from ci_plugins.report import plan_json

        text = plan_json.render(
            planned.explanation,
            planned.forecast,
            names=planned.names,
            platform=planned.platform,
            prefer=planned.prefer,
            left_out=planned.left_out,
            scopes=planned.scopes,
            warnings=planned.warnings,
        )
    else:
        from ci_plugins.report import plan_text

        _warn(planned.warnings)
        text = plan_text.render(
            planned.explanation,
            planned.forecast,
            prefer=planned.prefer,
            left_out=planned.left_out,
            scopes=planned.scopes,
            width=_width(sys.stdout),
        )
    print(text, end="")


def _warn(warnings: Sequence[str]) -> None:
    from ci_plugins.report.text import clean

    for warning in warnings:
        sys.stderr.write(f"warning: {clean(warning)}\n")


# --- cache ----------------------------------------------------------------------------------------------------------


def _cache(options: CacheOptions) -> None:
    import time

    from ci_plugins import upkeep
    from ci_plugins.report import cache_json, cache_text

    width = _width(sys.stdout)
    with _stopped_by_signals():
        match options.action:
            case "tree":
                name, scopes = upkeep.tree(options)
                in_words = cache_text.render_tree(name, scopes, now=time.time(), width=width)
                in_json = cache_json.render_tree(name, scopes)
            case "why":
                found = upkeep.why(options)
                in_words = cache_text.render_why(found.store, found.chain, found.here, width=width)
                in_json = cache_json.render_why(found.store, found.chain, found.here)
            case "prune":
                gone = upkeep.prune(options)
                in_words = cache_text.render_prune(gone.store, gone.pruned, gone.freed)
                in_json = cache_json.render_prune(gone.store, gone.pruned, gone.freed)
            case "verify":
                name, verified = upkeep.verify(options)
                in_words = cache_text.render_verify(name, verified)
                in_json = cache_json.render_verify(name, verified)
    print(in_json if options.json else in_words, end="")


# --- cache index -----------------------------------------------------------------------------------------------------


def _index(options: IndexOptions) -> None:
    from ci_plugins.foreign.command import index_images

    for done in index_images(options, _lines_to(sys.stderr)):
        if options.json:
            import json
            from dataclasses import asdict

            print(json.dumps(asdict(done)), flush=True)
            continue
        print(
            f"{done.repository}: {done.tags} tags ({done.unchanged} unchanged), {done.images} images read, "
            f"{done.layers} layers known, {done.removed} forgotten",
            flush=True,
        )
        for image, reason in done.left_out:
            print(f"  left out {image}: {reason}")


# --- serve ----------------------------------------------------------------------------------------------------------


def _serve(options: ServeOptions) -> None:
    from ci_plugins import serve

    def ready(address: str) -> None:
        print(address if options.quiet else f"registry of {options.root} listening on {address}", flush=True)

    log = None if options.quiet else _lines_to(sys.stderr)
    serve.run(options.root, options.host, options.port, ready, log)


# --- terminals ------------------------------------------------------------------------------------------------------


def _to(stream: TextIO) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


def _lines_to(stream: TextIO) -> Callable[[str], None]:
    write = _to(stream)
    return lambda line: write(line + "\n")


def _is_interactive(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("CI")


def _width(stream: TextIO) -> int:
    if not stream.isatty():
        return _LOG_WIDTH
    import shutil

    return shutil.get_terminal_size((_LOG_WIDTH, 24)).columns
