"""Processes that help to hash (context/hash_helper.py), as seen by who started them.

What a helper does not answer, because it cannot be started, was killed or met something wrong, is for the caller to
do: without any of them the work takes longer, and has the same result.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ci_plugins.context.hash_helper import LENGTH_SIZE, Answers, Batch, pack

_PROGRAM = Path(__file__).with_name("hash_helper.py")


@contextmanager
def helping(count: int, todo: deque[tuple[int, Batch]], done: dict[int, Answers]) -> Iterator[None]:
    """Up to `count` processes take numbered batches from the end of `todo` until it is empty, and put what they answer
    into `done`; the caller takes from the beginning meanwhile. Leaving the `with` waits for what they have begun.

    An exception ends them at once. Either way no process and no thread is left.
    """
    helpers: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    try:
        try:
            for number in range(count):
                helpers.append(_start())
                work = (helpers[-1], todo, done)
                thread = threading.Thread(target=_drive, args=work, name=f"hash_{number}", daemon=True)
                thread.start()
                threads.append(thread)
        except (OSError, RuntimeError):
            pass  # no more processes, descriptors or threads to be had: as many as there are
        yield
        for thread in threads:
            thread.join()
    finally:
        for helper in helpers:
            helper.kill()
        for thread in threads:
            thread.join()
        for helper in helpers:
            with suppress(BrokenPipeError), helper:
                pass  # reaped, its pipes closed


def _start() -> subprocess.Popen[bytes]:
    names = f"utf8={sys.flags.utf8_mode}"  # it reads file names as this process does, whatever -I keeps from it
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", names, _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is the builder's to handle
    )


def _drive(helper: subprocess.Popen[bytes], todo: deque[tuple[int, Batch]], done: dict[int, Answers]) -> None:
    """Until there is nothing to do, or the helper is gone."""
    assert helper.stdin is not None
    assert helper.stdout is not None
    while todo:
        try:
            number, files = todo.pop()
        except IndexError:
            return  # another was faster
        try:
            helper.stdin.write(pack(files))
            helper.stdin.flush()
            length = int.from_bytes(helper.stdout.read(LENGTH_SIZE), "little")
            answers = marshal.loads(helper.stdout.read(length))
        except (OSError, EOFError, ValueError):
            return  # it was killed
        if answers is not None:
            done[number] = answers
