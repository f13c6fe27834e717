"""A root file system for RUN: busybox and nothing else."""

import os
import shutil
from pathlib import Path

import pytest

APPLETS = ("sh", "cat", "chmod", "env", "grep", "id", "ip", "ls", "mkdir", "mknod", "mount", "printf", "rm", "sleep",
           "stat", "touch", "wc")  # fmt: skip


def busybox_rootfs(root: Path) -> Path:
    """Fill `root`: /bin with some applets, /etc with a passwd and a group file."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("busybox is missing: apt-get install busybox-static")
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    for directory in (root, root / "etc", root / "bin"):
        directory.chmod(0o755)
        os.utime(directory, ns=(10**18, 10**18))
    return root
