"""Nobody waits for workers that were abandoned, and every wait for their results ends at once."""

from __future__ import annotations

import threading
import time

import pytest

from ci_plugins.transfer.workers import Workers


def test_results_and_errors_come_back() -> None:
    workers = Workers("test", 2)
    assert [future.result(5) for future in [workers.submit(pow, 2, n) for n in range(20)]] == [2**n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(5)
    workers.abandon(RuntimeError("the end"))
    workers.join(5)


def test_no_more_threads_than_allowed_and_no_fewer_than_needed() -> None:
    workers, together = Workers("test", 3), threading.Barrier(3, timeout=5)
    for future in [workers.submit(together.wait) for _ in range(6)]:
        future.result(5)
    workers.abandon(RuntimeError("the end"))
    workers.join(5)


def test_abandoning_ends_every_wait() -> None:
    workers, stuck = Workers("test", 1), threading.Event()
    running, queued = workers.submit(stuck.wait), workers.submit(stuck.wait)
    heard: list[BaseException | None] = []
    running.add_done_callback(lambda future: heard.append(future.exception()))
    error = RuntimeError("somebody pressed Ctrl-C")
    began = time.monotonic()
    workers.abandon(error)
    for future in (running, queued, workers.submit(stuck.wait)):
        assert future.exception(0) is error
    workers.join(0.1)
    assert time.monotonic() - began < 2
    stuck.set()  # what comes of it now is nobody's business
    workers.join(5)
    assert heard == [error]
