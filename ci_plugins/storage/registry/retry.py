"""When to try again, how long to wait, when to give up.

Tried again: connections that fail or break, 408, 429 and 5xx. Not: any other refusal, a bad certificate, bytes that
do not match their digest. A registry's Retry-After is honoured up to a limit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from ci_plugins.errors import CiPluginsError

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")

#: answers after which the same request may well succeed
TRANSIENT_STATUSES = frozenset({408, 429, *range(500, 600)})


class TransientFailure(Exception):
    """An attempt failed in a way that may pass. `error` is what the person gets when it does not.

    `retry_after` is the wait the other side asks for, in seconds; `attempts` limits how often this kind is tried.
    Never leaves `RetryPolicy.run`.
    """

    def __init__(self, error: CiPluginsError, *, retry_after: float | None = None, attempts: int | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Retry:
    """One failure that is about to be tried again after `delay` seconds."""

    error: CiPluginsError
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter. Times in seconds."""

    #: tries in a row that bring nothing forward
    attempts: int = 6
    first_delay: float = 0.25
    longest_delay: float = 15.0
    #: a longer Retry-After is cut to this
    longest_retry_after: float = 60.0
    #: no wait may end later than this after the last progress
    total: float = 180.0
    sleep: Callable[[float], None] = time.sleep

    def delay(self, failures: int, retry_after: float | None) -> float:
        """The wait after so many failures in a row (from 1)."""
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.longest_retry_after)
        ceiling: float = min(self.longest_delay, self.first_delay * 2.0 ** (failures - 1))
        # Half of it is random: clients that failed together must not come back together.
        return ceiling * random.uniform(0.5, 1.0)

    def run(
        self,
        attempt: Callable[[], T],
        on_retry: Callable[[Retry], None] = lambda retry: None,
        mark: Callable[[], object] = lambda: None,
    ) -> T:
        """Call until it returns or raises anything but TransientFailure; then raise that failure's error.

        `mark` tells progress: a failure after which it has another value than before counts as the first again.
        """
        patience = _Patience(self, mark)
        try:
            return attempt()
        except TransientFailure as failure:
            return self._run_again(failure, attempt, on_retry, patience)

    def _run_again(
        self, first: TransientFailure, attempt: Callable[[], T], on_retry: Callable[[Retry], None], patience: _Patience
    ) -> T:
        import tenacity  # most requests are answered at once

        failed = [first]

        def attempts() -> T:
            if failed:
                raise failed.pop()
            return attempt()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientFailure),
            wait=patience.wait,
            stop=patience.stop,
            sleep=self.sleep,
            before_sleep=lambda state: on_retry(patience.last(state)),
            reraise=True,
        )
        try:
            return retrying(attempts)
        except TransientFailure as failure:
            raise failure.error from failure.__cause__


class _Patience:
    """How much of a policy is used up. tenacity asks `wait` first, then `stop`."""

    def __init__(self, policy: RetryPolicy, mark: Callable[[], object]) -> None:
        self._policy = policy
        self._mark = mark
        self._seen = mark()
        self._failures = 0
        self._since = time.monotonic()

    def wait(self, state: tenacity.RetryCallState) -> float:
        now = self._mark()
        if now != self._seen:
            self._seen, self._failures, self._since = now, 0, time.monotonic()
        self._failures += 1
        return self._policy.delay(self._failures, _failure(state).retry_after)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        limit = _failure(state).attempts
        attempts = self._policy.attempts if limit is None else min(limit, self._policy.attempts)
        elapsed = time.monotonic() - self._since
        return self._failures >= attempts or elapsed + state.upcoming_sleep > self._policy.total

    def last(self, state: tenacity.RetryCallState) -> Retry:
        return Retry(_failure(state).error, self._failures, state.upcoming_sleep)


def _failure(state: tenacity.RetryCallState) -> TransientFailure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TransientFailure)
    return error


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait, from a Retry-After header: seconds or an HTTP date (RFC 9110 §10.2.3). None if unreadable.

    `now` is the wall clock in seconds since the epoch.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))
