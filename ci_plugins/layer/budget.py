"""How much memory the layers under way may hold together."""

from __future__ import annotations

import threading
from collections import deque


class MemoryBudget:
    """Bytes shared by all streams of a process. Thread safe.

    Who holds some and wants more asks with `try_acquire`, and on False first gives back what it holds; only who holds
    nothing waits in `acquire`. So there is always someone who can go on, and nobody waits for ever: waiters are
    served in their order, before anyone who tries.
    """

    def __init__(self, size: int = 256 << 20) -> None:
        if size <= 0:
            raise ValueError("a memory budget must be positive")
        self.size = size
        self._used = 0
        self._refusal: BaseException | None = None
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def used(self) -> int:
        return self._used

    def try_acquire(self, count: int) -> bool:
        with self._changed:
            self._check()
            if self._waiting or not self._fits(count):
                return False
            self._used += count
            return True

    def acquire(self, count: int) -> None:
        """Wait until there is room. More than the whole budget is given to who is alone. Raises as `refuse` says."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._check()
                while self._waiting[0] is not ticket or not self._fits(count):
                    self._changed.wait()
                    self._check()
                self._used += count
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def release(self, count: int) -> None:
        with self._changed:
            self._used -= count
            self._changed.notify_all()

    def refuse(self, reason: BaseException) -> None:
        """From now on, who asks for more or waits for it gets this raised: the way to stop all streams at once."""
        with self._changed:
            self._refusal = reason
            self._changed.notify_all()

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _fits(self, count: int) -> bool:
        return self._used == 0 or self._used + count <= self.size
