"""An iterator that runs ahead in a thread of its own: one stage of a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def pump(items: Iterable[T], ahead: int = 4) -> Generator[T, None, None]:
    """The same items, made up to `ahead` of them early. What `items` raises is raised at its place.

    Closing the iterator stops the thread at the item it is working on.
    """
    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                room.acquire()
                if stopped.is_set():
                    return
                ready.put((item,))
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 (raised again by the consumer)
            ready.put(error)

    thread = threading.Thread(target=work, name="layer pump", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item[0]
    finally:
        stopped.set()
        room.release()
        thread.join()
