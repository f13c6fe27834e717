"""Mounts that cannot outlive their process: the system calls mount(2), unshare(2), prctl(2).

Imports little on purpose: the supervisor loads it once for every RUN step. Failures are OSError with the system's
errno; `filename` says what was tried.
"""

from __future__ import annotations

import ctypes
import errno
import os

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
_MS_REC, _MS_SLAVE = 0x4000, 1 << 19
_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_PR_SET_PDEATHSIG = 1

#: The kernel takes up to 500 lower directories (fs/overlayfs, OVL_MAX_STACK).
MAX_LOWERS = 500

#: From the newest kernels' to the oldest. index, redirect_dir and metacopy off keep an upper directory readable as a
#: plain difference. volatile (5.10) turns fsync into nothing: package managers call it for every file, and an upper
#: directory that a crash interrupted is thrown away anyway.
_OVERLAY_OPTIONS = ("volatile,index=off,redirect_dir=off,metacopy=off", "index=off,redirect_dir=off,metacopy=off", "")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def enter_private_mounts() -> None:
    """Give the calling thread a mount namespace of its own, from which nothing reaches the host's.

    Call it before other threads start: they inherit it. All mounts made afterwards vanish with the last process in
    it, even if that is killed. Doing it again nests harmlessly.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare mount namespace")
    mount("none", "/", None, _MS_REC | _MS_SLAVE)


def leave_children_to_new_pid_namespace() -> None:
    """The next child becomes process 1 of a new PID namespace: when it dies the kernel kills all others in it."""
    _check(_libc.unshare(_CLONE_NEWPID), "unshare pid namespace")


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl PR_SET_PDEATHSIG")


def mount(source: str, target: str, type: str | None, flags: int = 0, options: str = "") -> None:
    arguments = (os.fsencode(source), os.fsencode(target), type and type.encode(), flags, os.fsencode(options) or None)
    _check(_libc.mount(*arguments), f"mount {type or source} on {target}")


def mount_overlay(links: str, lowers: int, target: str) -> None:
    """Mount an overlay whose directories are named by symbolic links in the directory `links`.

    "0" is the topmost lower, "1" the next …; "upper" and "work" are where changes go. Names this short keep up to
    MAX_LOWERS of them within the one page that mount(2) takes for options, whatever the real paths look like. They
    are relative: this changes the working directory of the process.
    """
    os.chdir(links)
    directories = f"lowerdir={':'.join(map(str, range(lowers)))},upperdir=upper,workdir=work"
    for options in _OVERLAY_OPTIONS:
        try:
            mount("overlay", target, "overlay", 0, f"{directories},{options}".rstrip(","))
            break
        except OSError as error:
            if error.errno != errno.EINVAL or not options:
                raise


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
