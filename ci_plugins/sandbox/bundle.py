"""config.json of an OCI bundle (OCI runtime spec, config.md), with what Docker gives a container by default.

Docker's seccomp filter is not among it: see docs/compatibility.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci_plugins.layer.users import User

#: Where programs are looked for when the image's environment does not say (moby, oci/defaults).
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: moby, oci/caps/defaults.go.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Mount:
    """One entry of `mounts`; a destination below /dev needs no mount point in the image."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    Mount("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),
    Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "relatime", "ro")),
)


def file_mount(source: Path, destination: str, *, executable: bool = False) -> Mount:
    """A file of this machine, to be read in the container."""
    noexec = () if executable else ("noexec",)
    return Mount(destination, "bind", str(source), ("rbind", "nosuid", *noexec, "nodev", "ro"))


def directory_mount(source: Path, destination: str, *, readonly: bool) -> Mount:
    """A directory of this machine."""
    return Mount(destination, "bind", str(source), ("rbind", "ro" if readonly else "rw"))


@dataclass(frozen=True, slots=True)
class Process:
    argv: Sequence[str]
    environment: Mapping[str, str]
    working_dir: str
    user: User


def runtime_config(
    rootfs: Path, process: Process, hostname: str, own_network: bool, mounts: Sequence[Mount] = ()
) -> dict[str, Any]:
    """`own_network`: a network namespace with nothing but its loopback interface, else the host's."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {
                "uid": process.user.uid,
                "gid": process.user.gid,
                "additionalGids": list(process.user.additional_gids),
            },
            "args": list(process.argv),
            "env": [f"{name}={value}" for name, value in process.environment.items()],
            "cwd": process.working_dir,
            "capabilities": _capabilities(process.user),
            "noNewPrivileges": False,
        },
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": hostname,
        "mounts": [
            {"destination": m.destination, "type": m.type, "source": m.source, "options": list(m.options)}
            for m in (*MOUNTS, *mounts)
        ],
        "linux": {
            # the runtime adds the devices every container has, and the right to make nodes of any other
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": name} for name in ("pid", "ipc", "uts", "mount", *(("network",) if own_network else ()))
            ],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _capabilities(user: User) -> dict[str, list[str]]:
    """All for root; others may gain them only through what they execute, as execve(2) would have it."""
    own = [] if user.uid else list(CAPABILITIES)
    return {"bounding": list(CAPABILITIES), "effective": own, "permitted": own, "inheritable": [], "ambient": []}
