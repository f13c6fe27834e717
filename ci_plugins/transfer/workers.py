"""Threads for what waits for a network, and can be left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Executor):
    """At most `count` threads, started when there is work for them.

    Unlike those of a ThreadPoolExecutor they do not keep the process alive, and `abandon` ends every wait for their
    results at once: nothing can interrupt a thread that waits for an answer, but who waits for the thread can stop.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = SimpleQueue()
        self._unfinished: set[Future[object]] = set()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Once the workers were abandoned, the future has failed already."""
        future: Future[T] = Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            self._unfinished.add(future)  # type: ignore[arg-type]
            self._tasks.put((future, lambda: work(*args, **kwargs)))  # type: ignore[arg-type]
            if len(self._threads) < min(self._count, len(self._unfinished)):
                thread = threading.Thread(target=self._run, name=f"{self._name}_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def abandon(self, error: BaseException) -> None:
        """Whatever is not finished fails with `error`, now. What is running goes on unseen until it ends."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
            unfinished, self._unfinished = self._unfinished, set()
            for _ in self._threads:
                self._tasks.put(None)
        for future in unfinished:
            with suppress(InvalidStateError):
                future.set_exception(error)

    def join(self, seconds: float) -> None:
        """Wait for the threads of abandoned workers to end, but not longer than this."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._work(*task)
            del task  # waiting for the next one holds nothing of this one

    def _work(self, future: Future[object], work: Callable[[], object]) -> None:
        if future.done():
            return
        with suppress(InvalidStateError):  # it was abandoned meanwhile
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
                future.set_exception(error)
            else:
                future.set_result(result)
        with self._lock:
            self._unfinished.discard(future)
