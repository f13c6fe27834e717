"""Why a build cannot succeed any more."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Halt:
    """The first reason counts: what fails after it mostly does so because everything was stopped. Thread safe.

    `then` is called with the reason, once, by whoever had it.
    """

    def __init__(self, then: Callable[[BaseException], None]) -> None:
        #: set when there is a reason: running commands are killed, fetches and uploads end
        self.event = threading.Event()
        self._then = then
        self._lock = threading.Lock()
        self._reason: BaseException | None = None

    def because(self, reason: BaseException) -> None:
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self.event.set()
        self._then(reason)

    def check(self) -> None:
        """Raise the reason, if there is one."""
        if self._reason is not None:
            raise self._reason
