"""Helpers that hash: they change how long it takes, nothing else, and nothing is left of them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_plugins.context import Context, KnownDigests, hash_helpers
from ci_plugins.context import hash as hash_module
from ci_plugins.context.hash import FileToHash, HashedFile, hash_files
from ci_plugins.errors import CiPluginsError, ContextChanged

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

OLD = 1_600_000_000

#: Instead of the helper. `answer` reads one batch and answers it right.
ODD_HELPERS = {
    "ends at once": "",
    "fails": "raise SystemExit(3)",
    "is killed before it answers": "sys.stdin.buffer.read(4); os.kill(os.getpid(), 9)",
    "is killed after an answer": "answer(); os.kill(os.getpid(), 9)",
    "is killed while it answers": "sys.stdout.buffer.write(answer(write=False)[:50]); sys.stdout.flush(); os._exit(1)",
    "closes its input and waits": "os.close(0); answer_none(); import time; time.sleep(600)",
    "cannot read anything": "\nwhile True: answer_none()",
}
ODD_PRELUDE = f"""
import io, os, sys
sys.path.insert(0, {str(Path(hash_helpers.__file__).parent)!r})
import hash_helper
def answer(write=True):
    header = sys.stdin.buffer.read(4)
    body = sys.stdin.buffer.read(int.from_bytes(header, "little"))
    out = io.BytesIO()
    hash_helper.serve(io.BytesIO(header + body), out)
    if write:
        sys.stdout.buffer.write(out.getvalue()); sys.stdout.flush()
    return out.getvalue()
def answer_none():
    sys.stdout.buffer.write(hash_helper.pack(None)); sys.stdout.flush()
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The helpers of a test. At its end none may be left, no thread of theirs, and no pipe."""
    helpers: list[subprocess.Popen[bytes]] = []
    start = hash_helpers._start

    def remembered() -> subprocess.Popen[bytes]:
        helpers.append(start())
        return helpers[-1]

    monkeypatch.setattr(hash_helpers, "_start", remembered)
    yield helpers
    assert all(helper.returncode is not None for helper in helpers), "reaped"
    assert all(pipe.closed for helper in helpers for pipe in (helper.stdin, helper.stdout) if pipe)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hash_")]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three helpers for anything, and a batch for every other small file."""
    monkeypatch.setattr(hash_module, "_HELPER", 1)
    monkeypatch.setattr(hash_module, "_BATCH", 2 * hash_module._PER_FILE)


def found(path: Path) -> FileToHash:
    status = path.lstat()
    return FileToHash(str(path), status.st_size, status.st_mtime_ns)


def files_in(directory: Path, count: int) -> list[FileToHash]:
    for number in range(count):
        (directory / f"{number:05}").write_bytes(b"%d" % number * (number % 700))
    return [found(directory / f"{number:05}") for number in range(count)]


def alone(files: list[FileToHash]) -> list[HashedFile]:
    return [answer for file in files for answer in hash_module._hash_batch([tuple(file)])]


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """This process is slow: helpers get their share of even a few files."""
    hash_batch = hash_module._hash_batch
    monkeypatch.setattr(hash_module, "_hash_batch", lambda batch: (time.sleep(seconds), hash_batch(batch))[1])


def test_many_files(tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a context of this size is hashed, and not all of it here."""
    here: list[str] = []
    slowly(monkeypatch)
    hash_batch = hash_module._hash_batch
    monkeypatch.setattr(hash_module, "_hash_batch", lambda batch: (here.extend(batch), hash_batch(batch))[1])
    files = files_in(tmp_path, 8000)
    expected = ["sha256:" + hashlib.sha256(Path(file.path).read_bytes()).hexdigest() for file in files]
    assert [digest for digest, *_ in hash_files(files)] == expected
    assert len(started) == 2
    assert len(here) < len(files)


def test_a_few_files_start_nothing(tmp_path: Path, started: list[Any]) -> None:
    hash_files(files_in(tmp_path, 500))
    assert not started


@pytest.mark.usefixtures("eager")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=12).filter(
                lambda name: not set(name) & {0, 47} and name not in (b".", b"..")
            ),
            st.one_of(st.binary(max_size=64), st.integers(0, (2 << 20) + 1).map(lambda size: b"ab" * (size // 2))),
        ),
        max_size=12,
        unique_by=lambda file: file[0],
    )
)
def test_with_helpers_and_alone_the_same(started: list[Any], contents: list[tuple[bytes, bytes]]) -> None:
    with TemporaryDirectory() as directory:
        files = []
        for name, content in contents:
            path = Path(directory) / os.fsdecode(name)
            path.write_bytes(content)
            files.append(found(path))
        assert hash_files(files) == alone(files)
        assert bool(started) >= bool(files)


@pytest.mark.usefixtures("eager")
def test_most_is_done_by_helpers_where_this_process_is_slow(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_in(tmp_path, 200)
    expected, here = alone(files), []
    hash_batch = hash_module._hash_batch
    slow = lambda batch: (here.extend(batch), time.sleep(0.1), hash_batch(batch))[2]  # noqa: E731
    monkeypatch.setattr(hash_module, "_hash_batch", slow)
    assert hash_files(files) == expected
    assert len(here) < 50
    assert len(started) == 3


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("odd", ODD_HELPERS)
def test_a_helper_that_fails_costs_time_only(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    program = tmp_path / "helper.py"
    program.write_text(ODD_PRELUDE + ODD_HELPERS[odd])
    monkeypatch.setattr(hash_helpers, "_PROGRAM", program)
    (tmp_path / "files").mkdir()
    files = files_in(tmp_path / "files", 60)
    expected = alone(files)
    slowly(monkeypatch)
    assert hash_files(files) == expected
    assert len(started) == 3


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_helpers_that_are_killed(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In the middle of their work: they leave enough for this process to take a part."""
    program = tmp_path / "helper.py"
    program.write_text(f"{ODD_PRELUDE}import time\nwhile True:\n    answer()\n    time.sleep(0.05)\n")
    monkeypatch.setattr(hash_helpers, "_PROGRAM", program)
    (tmp_path / "files").mkdir()
    files = files_in(tmp_path / "files", 400)
    expected = alone(files)
    hash_batch, seen = hash_module._hash_batch, []

    def hash_and_kill(batch: Any) -> Any:
        seen.append(batch)
        if len(seen) == 1:
            for helper in started:
                helper.send_signal(number)
                helper.wait()
        return hash_batch(batch)

    monkeypatch.setattr(hash_module, "_hash_batch", hash_and_kill)
    assert hash_files(files) == expected
    assert [helper.returncode for helper in started] == [-number] * 3


@pytest.mark.usefixtures("eager")
def test_no_process_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    files = files_in(tmp_path, 20)
    assert hash_files(files) == alone(files)


def vanish(file: Path) -> None:
    file.unlink()


def grow(file: Path) -> None:
    file.write_text("much longer than it was before, whatever it was" * 100)


def touch(file: Path) -> None:
    os.utime(file, (OLD, OLD))


def become_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to(os.devnull)


def become_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.usefixtures("eager", "started")
@pytest.mark.parametrize("change", [vanish, grow, touch, become_a_link, become_a_directory])
@pytest.mark.parametrize("where", [[0], [50], [99], [30, 99], [98, 99]])
def test_errors_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], where: list[int]
) -> None:
    """And of several the first in order, whoever came upon it."""
    files = files_in(tmp_path, 100)
    for number in where:
        change(Path(files[number].path))
    with pytest.raises(CiPluginsError) as expected:
        alone(files)
    slowly(monkeypatch, 0.005)
    with pytest.raises(CiPluginsError) as caught:
        hash_files(files)
    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))
    assert caught.value.remedy == expected.value.remedy
    assert files[where[0]].path in str(caught.value)


@pytest.mark.usefixtures("eager", "started")
def test_the_first_of_many_errors_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers come upon errors while this process has yet to: they begin at the other end."""
    files = files_in(tmp_path, 100)
    for file in files[2:]:
        Path(file.path).unlink()
    slowly(monkeypatch, 0.3)
    with pytest.raises(ContextChanged, match=files[2].path):
        hash_files(files)


def test_an_unreadable_file() -> None:
    """In a process of its own, without root's rights."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        _read_one_that_may_not_be_read(Path(directory))


def _read_one_that_may_not_be_read(directory: Path) -> None:
    files = files_in(directory, 60)
    (directory / "00059").chmod(0)
    code = (
        "import os, sys\n"
        "from ci_plugins.context import hash as h\n"
        "h._HELPER, h._BATCH = 1, 1\n"
        f"files = [h.FileToHash(*file) for file in {[tuple(file) for file in files]}]\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: h.hash_files(files)\n"
        "except Exception as error: print(type(error).__name__, error, error.remedy, sep='|')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kind, message, remedy = done.stdout.strip().split("|")
    assert kind == "ContextError"
    assert message == f"cannot read {directory}/00059: Permission denied"
    assert ".dockerignore" in remedy


@pytest.mark.usefixtures("eager")
def test_an_interruption_ends_helpers_at_once(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even those that would never end: opening a FIFO waits for a writer."""
    files = files_in(tmp_path, 40)
    for file in files[20:]:
        Path(file.path).unlink()
        os.mkfifo(file.path)

    def interrupted(batch: Any) -> Any:
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(hash_module, "_hash_batch", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hash_files(files)
    assert time.monotonic() - began < 5
    assert [helper.returncode for helper in started] == [-signal.SIGKILL] * 3


def test_helpers_do_not_outlive_a_builder_that_is_killed(tmp_path: Path) -> None:
    files_in(tmp_path, 5000)  # more than helpers hash while the builder gets to its first
    code = (
        "import os, time\n"
        "from ci_plugins.context import hash as h, hash_helpers\n"
        "h._HELPER, h._BATCH = 1, 1\n"
        "start = hash_helpers._start\n"
        "def told():\n"
        "    helper = start()\n"
        "    print(helper.pid, flush=True)\n"
        "    return helper\n"
        "hash_helpers._start = told\n"
        "h._hash_batch = lambda batch: (print('busy', flush=True), time.sleep(600))\n"
        f"found = [(file.path, file.stat()) for file in os.scandir({str(tmp_path)!r})]\n"
        "h.hash_files([h.FileToHash(path, status.st_size, status.st_mtime_ns) for path, status in found])\n"
    )
    builder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    with closing(builder.stdout):
        helpers = [int(builder.stdout.readline()) for _ in range(3)]
        assert builder.stdout.readline() == "busy\n"
        builder.kill()
        builder.wait()
    patience = time.monotonic() + 10
    while alive := [pid for pid in helpers if running(pid)]:
        assert time.monotonic() < patience, alive
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("eager")
def test_what_helpers_read_is_known_to_the_next_build(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci_plugins.context.known._YOUNG", 0)
    root = tmp_path / "context"
    root.mkdir()
    names = [Path(file.path).name for file in files_in(root, 100)]
    slowly(monkeypatch)

    def digests() -> list[str]:
        known = KnownDigests(tmp_path / "known")
        found = [str(digest) for digest in Context.open(root, None, known).content_digests(names)]
        known.save()
        return found

    first = digests()
    assert len(started) == 3
    monkeypatch.setattr(hash_module, "_hash_batch", lambda batch: pytest.fail("read again"))
    assert digests() == first
    assert len(started) == 3, "nothing to hash, no helper"


@pytest.mark.usefixtures("eager", "started")
def test_a_context_that_changes_while_helpers_read_it(tmp_path: Path) -> None:
    files_in(tmp_path, 100)
    context = Context.open(tmp_path)
    names = list(context.children(""))
    grow(tmp_path / names[-1])
    with pytest.raises(ContextChanged, match=f"{names[-1]} changed while"):
        context.content_digests(names)
