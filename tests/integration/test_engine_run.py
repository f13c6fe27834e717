"""Commands in containers: what they see, what is seen of them, how they end."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ci_plugins.engine.native import probe
from ci_plugins.engine.protocol import CommandFailed
from ci_plugins.errors import ConfigError
from ci_plugins.layer.users import User, resolve_user
from ci_plugins.sandbox.network_profile import CA_FILE, NetworkProfile
from tests.integration.busybox import busybox_rootfs
from tests.integration.engine_bench import make_bench, tree

#: capabilities(7): chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot
#: mknod audit_write setfcap, by number
DOCKER_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))


@pytest.fixture
def bench(tmp_path):
    return make_bench(tmp_path, busybox_rootfs(tmp_path / "root"))


def test_it_works_here(tmp_path):
    assert probe(tmp_path) is None


def test_output_and_errors_in_the_order_they_were_written(bench):
    bench.run("for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; printf 'no newline'")
    expected = [f"{stream} {number}" for number in range(1, 6) for stream in ("out", "err")]
    assert bench.lines == [*expected, "no newline"]


def test_lines_arrive_while_the_command_runs(bench):
    arrivals = []

    class Arriving(list):
        def append(self, line):
            arrivals.append(time.monotonic())

    bench.run("echo first; sleep 0.5; echo second", lines=Arriving())
    assert arrivals[1] - arrivals[0] > 0.4


@pytest.mark.parametrize(
    ("command", "code"), [("exit 3", 3), ("false", 1), ("/bin/missing", 127), ("sh -c 'kill -9 $$'", 137)]
)
def test_exit_codes(bench, command, code):
    with pytest.raises(CommandFailed) as caught:
        bench.run(f"{command} || exit $?")
    assert caught.value.code == code
    assert f"exited with code {code}" in caught.value.message


def test_the_error_holds_the_last_lines(bench):
    with pytest.raises(CommandFailed) as caught:
        bench.run("i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; exit 1")
    assert caught.value.last_lines[-1] == "line 99"
    assert len(caught.value.last_lines) == 40


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("/bin/missing",), 127, "/bin/missing: no such file"),
        (("missing",), 127, "missing: not found in \\$PATH"),
        (("/etc/passwd",), 126, "/etc/passwd: permission denied"),
    ],
)
def test_a_command_that_cannot_be_executed(bench, argv, code, message):
    with pytest.raises(CommandFailed, match=message) as caught:
        bench.run(argv)
    assert caught.value.code == code


def test_environment(bench):
    bench.run("env", environment={"A": "1 = 2", "EMPTY": ""}, hostname="box")
    assert {"A=1 = 2", "EMPTY=", "HOME=/root", "HOSTNAME=box"} <= set(bench.lines)
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in bench.lines
    bench.run("env", environment={"PATH": "/bin", "HOME": "/srv"})
    assert {"PATH=/bin", "HOME=/srv"} <= set(bench.lines)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root)"),
        ("app", "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"),
        ("1000", "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)"),
        ("app:extra", "uid=1000(app) gid=2000(extra) groups=2000(extra)"),
        ("4711:4712", "uid=4711 gid=4712 groups=4712"),
    ],
)
def test_users(bench, spec, shown):
    passwd, group = (bench.lowers[0] / f"etc/{name}" for name in ("passwd", "group"))
    user = resolve_user(spec, passwd.read_bytes(), group.read_bytes())
    bench.run("id; echo $HOME", user=user)
    assert bench.lines == [shown, user.home]


def test_capabilities_are_dockers(bench):
    bench.run("grep Cap /proc/self/status")
    found = {line.split(":")[0]: int(line.split()[1], 16) for line in bench.lines}
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == DOCKER_CAPABILITIES
    assert found["CapInh"] == found["CapAmb"] == 0
    bench.run("grep Cap /proc/self/status", user=User(1000, 1000, (1000,), "/"))
    found = {line.split(":")[0]: int(line.split()[1], 16) for line in bench.lines}
    assert (found["CapEff"], found["CapBnd"]) == (0, DOCKER_CAPABILITIES)


def test_what_of_the_host_is_hidden(bench):
    bench.run("cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l")
    assert bench.lines == ["0", "0"]
    for command in ("echo 1 > /proc/sys/vm/overcommit_memory", "mkdir /sys/fs/x", "mount -t tmpfs x /etc"):
        with pytest.raises(CommandFailed):
            bench.run(command)


def test_devices(bench):
    bench.run(
        "echo x > /dev/null && cat /dev/zero | (read -n 1 x; true); ls /dev/pts /dev/shm; mknod /node c 1 3; ls /dev"
    )
    assert {"full", "null", "ptmx", "random", "tty", "urandom", "zero"} <= set(bench.lines)
    with pytest.raises(CommandFailed):
        bench.run("mknod /disk b 254 0; cat /disk")


def test_signals_are_as_a_shell_expects_them(bench):
    bench.run("grep -E 'Sig(Blk|Ign)' /proc/self/status")
    blocked, ignored = (int(line.split()[1], 16) for line in bench.lines)
    assert blocked == 0
    assert ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGTERM - 1)) == 0


def test_standard_input_is_empty(bench):
    bench.run("cat; [ -c /dev/stdin ] && echo device")
    assert bench.lines == ["device"]


def test_network_none_has_only_loopback(bench):
    bench.run("ip -o link", network="none")
    assert len(bench.lines) == 1
    assert "lo:" in bench.lines[0]
    assert "UP" in bench.lines[0]


def test_network_host_is_the_hosts(bench):
    with open("/proc/net/dev") as file:
        interfaces = {line.split(":")[0].strip() for line in file if ":" in line}
    bench.run("cat /proc/net/dev")
    assert {line.split(":")[0].strip() for line in bench.lines if ":" in line} == interfaces


def test_the_working_directory_is_made_for_the_user_if_it_is_missing(bench):
    upper = bench.run("echo $PWD; touch file", working_dir="/srv/app", user=User(1000, 1001, (1001,), "/"))
    assert bench.lines == ["/srv/app"]
    assert tree(upper) == {"srv": "d", "srv/app": "d", "srv/app/file": "f"}
    info = (upper / "srv/app").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1000, 1001, 0o755)


def test_a_working_directory_that_is_a_file(bench):
    with pytest.raises(CommandFailed, match="working directory /etc/passwd"):
        bench.run("true", working_dir="/etc/passwd")


def test_certificates_are_there_for_the_command_and_not_in_the_layer(bench, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("CERTIFICATES\n")
    bundle.chmod(0o600)
    profile = NetworkProfile(bundle, {"PIP_INDEX_URL": "https://mirror.invalid/"})
    command = "echo $SSL_CERT_FILE $PIP_INDEX_URL; cat $PIP_CERT $APT_CONFIG; rm -rf /run/* /tmp/*"
    upper = bench.run(command, profile=profile, user=User(1000, 1000, (1000,), "/"))
    assert bench.lines[:2] == [f"{CA_FILE} https://mirror.invalid/", "CERTIFICATES"]
    assert CA_FILE in bench.lines[2]
    assert tree(upper) == {}
    bench.run("echo $PIP_INDEX_URL", profile=profile, environment={"PIP_INDEX_URL": "from the image"})
    assert bench.lines == ["from the image"]


def test_a_bundle_that_does_not_exist_is_the_settings_fault(bench, tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        bench.run("true", profile=NetworkProfile(tmp_path / "missing.pem"))


def test_background_processes_end_with_the_command(bench):
    started = time.monotonic()
    bench.run("sleep 60 & sleep 61 >/dev/null 2>&1 & echo started")
    assert time.monotonic() - started < 5
    assert bench.lines == ["started"]


def test_four_at_once(bench, tmp_path):
    benches = [make_bench(tmp_path / str(number), *bench.lowers) for number in range(4)]
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        upper = benches[number].run(f"echo {number} > /file; sleep 0.2; cat /file")
        assert tree(upper) == {"file": "f"}
        return benches[number].lines

    for one in benches:
        one.path.mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [["0"], ["1"], ["2"], ["3"]]


def test_much_output(bench):
    bench.run("i=0; while [ $i -lt 20000 ]; do echo a line of some length, number $i; i=$((i+1)); done")
    assert len(bench.lines) == 20_000
