"""What ends in the upper directory, and on how much it can stand."""

import os
import tempfile
from pathlib import Path

import pytest

from ci_plugins.engine.protocol import CommandFailed
from ci_plugins.errors import EngineUnavailable, SandboxError
from ci_plugins.sandbox.union import Union
from tests.integration.busybox import busybox_rootfs
from tests.integration.engine_bench import make_bench, tree

YEAR_2001 = 10**18


@pytest.fixture
def root(tmp_path):
    return busybox_rootfs(tmp_path / "root")


@pytest.fixture
def bench(tmp_path, root):
    return make_bench(tmp_path, root)


def layer(tmp_path, name):
    made = tmp_path / name
    made.mkdir()
    made.chmod(0o755)
    return made


def whiteout(path):
    os.mknod(path, 0o600 | 0o020000, os.makedev(0, 0))


def test_a_command_that_changes_nothing_leaves_nothing(bench):
    upper = bench.run("cat /etc/resolv.conf /etc/hosts >/dev/null && ls /proc/self /sys /dev >/dev/null")
    assert tree(upper) == {}
    assert upper.stat().st_mtime_ns == YEAR_2001


def test_only_what_the_command_did(bench):
    upper = bench.run("mkdir -p /srv/a; touch /srv/a/b; rm /etc/passwd; chmod 600 /etc/group")
    assert tree(upper) == {
        "srv": "d",
        "srv/a": "d",
        "srv/a/b": "f",
        "etc": "d",
        "etc/passwd": "w",
        "etc/group": "f",
    }


def test_mount_points_cannot_be_removed_and_leave_no_trace(bench):
    with pytest.raises(CommandFailed):
        bench.run("rm -rf /etc")
    assert any("busy" in line for line in bench.lines)
    assert tree(bench.upper) == {"etc": "d", "etc/passwd": "w", "etc/group": "w"}


def test_the_hosts_resolver_is_shown(bench):
    bench.run("cat /etc/resolv.conf")
    with open("/etc/resolv.conf") as file:
        assert bench.lines == file.read().splitlines()


def test_names_in_hosts(bench):
    bench.run("cat /etc/hosts", hostname="box", network="none")
    assert bench.lines[0] == "127.0.0.1\tlocalhost box"


def test_a_resolver_that_is_a_dangling_link(bench, root, tmp_path):
    (root / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")
    (root / "run").mkdir(mode=0o751)
    os.utime(root / "run", ns=(YEAR_2001, YEAR_2001))
    upper = bench.run("cat /etc/resolv.conf; stat -c '%a %Y' /run; ls -l /etc/resolv.conf | grep -q stub.conf")
    assert bench.lines[-1] == "751 1000000000"
    assert len(bench.lines) > 1
    assert tree(upper) == {}


@pytest.mark.parametrize("hide", ["file", "directory", "opaque"])
def test_a_resolver_that_a_layer_has_hidden(tmp_path, root, hide):
    (root / "etc/resolv.conf").write_text("of the image")
    top = layer(tmp_path, "top")
    if hide == "directory":
        whiteout(top / "etc")
    else:
        (top / "etc").mkdir(mode=0o700)
        if hide == "file":
            whiteout(top / "etc/resolv.conf")
        else:
            os.setxattr(top / "etc", "trusted.overlay.opaque", b"y")
        os.utime(top / "etc", ns=(YEAR_2001, YEAR_2001))
    bench = make_bench(tmp_path, top, root)
    upper = bench.run("cat /etc/resolv.conf; [ -e /etc/passwd ] && echo visible; stat -c %a /etc")
    assert "of the image" not in bench.lines
    assert ("visible" in bench.lines) == (hide == "file")
    assert bench.lines[-1] == ("755" if hide == "directory" else "700")
    assert tree(upper) == {}


def test_changes_beside_a_made_mount_point_keep_the_directorys_own_attributes(bench, root):
    (root / "etc").chmod(0o711)
    os.chown(root / "etc", 5, 6)
    upper = bench.run("touch /etc/new")
    info = (upper / "etc").stat()
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o711, 5, 6)
    assert tree(upper) == {"etc": "d", "etc/new": "f"}


def test_the_root_directory_keeps_its_attributes(bench, root):
    root.chmod(0o750)
    os.chown(root, 3, 4)
    upper = bench.run("stat -c '%a %u %g' /")
    assert bench.lines == ["750 3 4"]
    assert (upper.stat().st_uid, upper.stat().st_mode & 0o7777) == (3, 0o750)


@pytest.mark.parametrize("count", [1, 130, 499])
def test_many_layers(tmp_path, root, count):
    lowers = []
    for number in range(count - 1):
        one = layer(tmp_path, f"a layer with a rather long name, and a colon: {number}")
        (one / f"file{number}").write_text(str(number))
        (one / "which").write_text(str(number))
        lowers.append(one)
    bench = make_bench(tmp_path, *reversed(lowers), root)
    bench.run("ls /file* 2>/dev/null | wc -l; [ ! -e /which ] || cat /which")
    assert bench.lines == [str(count - 1), *([str(count - 2)] if count > 1 else [])]


def test_more_layers_than_the_kernel_takes(tmp_path, root):
    bench = make_bench(tmp_path, *[layer(tmp_path, str(number)) for number in range(500)], root)
    with pytest.raises(SandboxError, match="502"):
        bench.run("true")


def test_no_layers_at_all(tmp_path):
    bench = make_bench(tmp_path)
    with pytest.raises(CommandFailed, match="no such file"):
        bench.run(("/anything",))
    assert tree(bench.upper) == {}


def test_an_upper_directory_on_the_wrong_file_system(bench, tmp_path):
    """An upper directory on /dev/shm, the rest elsewhere: overlayfs wants its own two on one file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        bench.path = Path(elsewhere)
        with pytest.raises(EngineUnavailable, match="overlay"):
            bench.run("true")


def test_the_union_agrees_with_the_kernel_on_whiteouts(tmp_path, root):
    top = layer(tmp_path, "top")
    (top / "etc").mkdir()
    whiteout(top / "etc/passwd")
    whiteout(top / "bin")
    union = Union((top, root))
    assert union.resolve("/etc/passwd").places == ()
    assert union.resolve("/bin/sh").places == ()
    assert union.resolve("/etc/group").places == (root / "etc/group",)
