"""Several pieces of work at a time, given up as soon as one of them fails or the build is halted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from ci_plugins.errors import Interrupted

T = TypeVar("T")
R = TypeVar("R")

#: seconds between two looks at `stop`
_PATIENCE = 0.1


def side_by_side(
    work: Callable[[T], R], items: Sequence[T], threads: int, stop: threading.Event, seconds: float = math.inf
) -> list[R]:
    """[work(item) for item in items], in that order.

    Raises the first error, Interrupted when `stop` is set, and TimeoutError after so many seconds. In any case nothing
    new is begun then, and what waits for a network is left behind: its thread does not keep the process alive.
    """
    end = time.monotonic() + seconds
    todo: SimpleQueue[tuple[int, T]] = SimpleQueue()
    done: SimpleQueue[tuple[int, R | BaseException, bool]] = SimpleQueue()
    ended = threading.Event()
    for numbered in enumerate(items):
        todo.put(numbered)

    def run() -> None:
        while not ended.is_set():
            try:
                number, item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((number, work(item), True))
            except BaseException as error:  # noqa: BLE001 (raised where the results are wanted)
                done.put((number, error, False))

    for number in range(min(threads, len(items))):
        threading.Thread(target=run, name=f"mount_{number}", daemon=True).start()
    results: dict[int, R] = {}
    try:
        while len(results) < len(items):
            try:
                number, result, worked = done.get(timeout=_PATIENCE)
            except Empty:
                if stop.is_set():
                    raise Interrupted("interrupted while a cache mount was restored or saved") from None
                if time.monotonic() > end:
                    raise TimeoutError(f"no answer in {seconds:.0f} s") from None
                continue
            if not worked:
                assert isinstance(result, BaseException)
                raise result
            results[number] = result  # type: ignore[assignment]
    finally:
        ended.set()
    return [results[number] for number in range(len(items))]
