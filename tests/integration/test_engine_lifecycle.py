"""What is left when a command is cancelled or its builder killed: nothing."""

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ci_plugins.engine.native import NativeEngine, probe
from ci_plugins.errors import EngineUnavailable, Interrupted
from tests.integration.busybox import busybox_rootfs
from tests.integration.engine_bench import make_bench

BUILDER = """
    import secrets, sys
    from pathlib import Path
    sys.path.insert(0, {repository!r})
    from tests.integration.engine_bench import Bench
    from ci_plugins.engine.native import NativeEngine
    secrets.token_hex = lambda _: {marker!r}
    path = Path({path!r})
    bench = Bench(path, (path / "root",), NativeEngine(path / "scratch"))
    class Print(list):
        def append(self, line): print(line, flush=True)
    bench.run({command!r}, lines=Print())
"""


@pytest.fixture
def marker(monkeypatch):
    """In the names of this test's containers: others run on the same machine."""
    marker, numbers = secrets.token_hex(8), itertools.count()
    monkeypatch.setattr(secrets, "token_hex", lambda _: f"{marker}-{next(numbers)}")
    return marker


@pytest.fixture
def nap():
    """How many seconds this test's commands sleep: no other's sleep as long."""
    return str(10**6 + secrets.randbelow(10**8))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, busybox_rootfs(tmp_path / "root"))


def processes(marker: str) -> list[int]:
    """Processes on this machine with `marker` in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if marker.encode() in arguments:
                found.append(int(entry.name))
    return found


def cgroups(marker: str) -> list[Path]:
    return [Path(directory) for directory, _, _ in os.walk("/sys/fs/cgroup") if marker in directory]


def host_mounts(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def eventually(condition, seconds=5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start_builder(tmp_path, command, marker) -> subprocess.Popen[str]:
    repository = str(Path(__file__).parents[2])
    program = textwrap.dedent(BUILDER).format(repository=repository, path=str(tmp_path), command=command, marker=marker)
    builder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "started\n"
    return builder


def test_a_command_leaves_nothing(bench, tmp_path, marker):
    bench.run("true")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert host_mounts(tmp_path) == []
    assert cgroups(marker) == []


@pytest.mark.parametrize(
    "command", ["echo started; sleep NAP", "trap '' TERM INT; echo started; sleep NAP & sleep NAP"]
)
def test_cancel_ends_it_within_a_second(bench, tmp_path, marker, nap, command):
    cancel = threading.Event()
    at = []

    class CancelOnFirstLine(list):
        def append(self, line):
            at.append(time.monotonic())
            cancel.set()

    with pytest.raises(Interrupted):
        bench.run(command.replace("NAP", nap), cancel=cancel, lines=CancelOnFirstLine())
    assert time.monotonic() - at[0] < 1
    assert processes(f"sleep\x00{nap}") == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert host_mounts(tmp_path) == []
    assert cgroups(marker) == []


def test_cancelled_before_it_began(bench):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        bench.run("touch /ran", cancel=cancel)
    assert list(bench.upper.iterdir()) == []


def test_cancel_at_any_moment_of_the_start(bench, tmp_path, marker, nap):
    for milliseconds in range(0, 120, 10):
        cancel = threading.Event()
        timer = threading.Timer(milliseconds / 1000, cancel.set)
        timer.start()
        with pytest.raises(Interrupted):
            bench.run(f"sleep {nap}", cancel=cancel)
        timer.join()
        assert processes(f"sleep\x00{nap}") == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert cgroups(marker) == []


def test_a_mount_is_never_seen_on_the_host_and_dies_with_a_killed_builder(tmp_path, bench, marker, nap):
    builder = start_builder(tmp_path, f"echo started; sleep {nap}", marker)
    try:
        assert eventually(lambda: processes(f"sleep\x00{nap}") != [])
        assert host_mounts(tmp_path) == []
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.communicate()
    assert eventually(lambda: not processes(f"sleep\x00{nap}"))
    assert eventually(lambda: not processes(str(tmp_path)))
    assert host_mounts(tmp_path) == []
    NativeEngine(tmp_path / "scratch")  # for the control groups' sake


def test_the_next_builder_takes_away_what_a_killed_one_left(tmp_path, bench, marker, nap):
    builder = start_builder(tmp_path, f"echo started; sleep {nap}", marker)
    running = list((tmp_path / "scratch").iterdir())
    NativeEngine(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == running  # its owner lives
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert eventually(lambda: not processes(str(tmp_path)))
    NativeEngine(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert cgroups(marker) == []


def test_without_root_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineUnavailable, match="need root"):
        NativeEngine(tmp_path)
    assert "sudo" in (probe(tmp_path) or "")


def test_where_the_kernel_permits_no_containers(tmp_path, bench):
    """As in a container that is not privileged: root, but without CAP_SYS_ADMIN."""
    program = (
        f"from ci_plugins.engine.native import probe; from pathlib import Path; print(probe(Path({str(tmp_path)!r})))"
    )
    dropped = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", program]
    repository = Path(__file__).parents[2]
    said = subprocess.run(dropped, capture_output=True, text=True, check=True, cwd=repository).stdout
    assert "does not permit containers" in said
    assert "privileged" in said


def may_load_device_filters() -> bool:
    """crun raises its memory lock limit for that, which takes CAP_SYS_RESOURCE (24)."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> 24 & 1)


def test_crun_on_unified_control_groups(tmp_path, bench):
    """crun refuses hybrid control groups, so it gets a mount namespace in which they are unified."""
    crun = shutil.which("crun")
    if crun is None:
        pytest.fail("crun is missing: apt-get install crun")
    program = textwrap.dedent(f"""
        from pathlib import Path
        from ci_plugins.engine import native
        from ci_plugins.engine.native import NativeEngine
        from ci_plugins.sandbox import mounts
        from ci_plugins.sandbox.runtime import Runtime
        from tests.integration.engine_bench import Bench, tree
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            mounts.enter_private_mounts()
            mounts.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        if not {may_load_device_filters()}:
            complete = native.runtime_config
            def without_filter(*arguments):
                config = complete(*arguments)
                del config["linux"]["resources"]
                return config
            native.runtime_config = without_filter
        path = Path({str(tmp_path)!r})
        bench = Bench(path, (path / "root",), NativeEngine(path / "scratch", Runtime("crun", {crun!r})))
        bench.run("echo out; echo err >&2; touch /x; grep CapEff /proc/self/status")
        print(bench.lines, tree(bench.upper))
        for argv in (("/missing",), "exit 3"):
            try:
                bench.run(argv)
            except Exception as error:
                print(type(error).__name__, error.code)
        print(list((path / "scratch").iterdir()))
    """)
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=repository, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['out', 'err', 'CapEff:\\t00000000a80425fb'] {'x': 'f'}",
        "CommandFailed 127",
        "CommandFailed 3",
        "[]",
    ]
