from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.errors import RegistryRejected, RegistryUnavailable
from ci_plugins.storage.registry.answers import Answer, check
from ci_plugins.storage.registry.retry import Retry, RetryPolicy, TransientFailure, parse_retry_after

NOON = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("9" * 400, 999_999_999.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:13:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOON) == seconds


@given(st.text())
def test_any_retry_after_is_read_without_an_error(value: str) -> None:
    seconds = parse_retry_after(value, NOON)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_these_answers_are_worth_another_try(status: int) -> None:
    with pytest.raises(TransientFailure) as caught:
        check(Answer("GET", "http://r/v2/", status, "", {"Retry-After": "3"}), (200,))
    assert isinstance(caught.value.error, RegistryUnavailable)
    assert caught.value.retry_after == 3.0


@pytest.mark.parametrize("status", [400, 405, 406, 409, 410, 411, 413, 414, 416, 422, 300])
def test_these_are_not(status: int) -> None:
    with pytest.raises(RegistryRejected):
        check(Answer("GET", "http://r/v2/", status, "", {"Retry-After": "3"}), (200,))


class Failing:
    """Fails so many times, then returns "done"."""

    def __init__(self, times: int, failure: TransientFailure) -> None:
        self.left = times
        self.failure = failure
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.failure
        return "done"


def failure(retry_after: float | None = None, attempts: int | None = None) -> TransientFailure:
    return TransientFailure(RegistryUnavailable("busy"), retry_after=retry_after, attempts=attempts)


def test_back_off_grows_and_is_never_whole() -> None:
    policy = RetryPolicy(first_delay=1.0, longest_delay=10.0)
    for failures, ceiling in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (50, 10.0)]:
        delays = {policy.delay(failures, None) for _ in range(50)}
        assert ceiling / 2 <= min(delays) <= max(delays) <= ceiling
        assert len(delays) > 1


def test_what_the_other_side_asks_for_is_waited() -> None:
    policy = RetryPolicy(longest_retry_after=60.0)
    assert [policy.delay(1, seconds) for seconds in (0.0, 5.0, 3600.0)] == [0.0, 5.0, 60.0]


def test_it_is_tried_until_it_works() -> None:
    waits: list[float] = []
    heard: list[Retry] = []
    work = Failing(3, failure())
    assert RetryPolicy(attempts=4, sleep=waits.append).run(work, heard.append) == "done"
    assert work.calls == 4
    assert [retry.attempt for retry in heard] == [1, 2, 3]
    assert [retry.delay for retry in heard] == waits


def test_the_last_error_is_the_error() -> None:
    work = Failing(99, failure())
    with pytest.raises(RegistryUnavailable, match="busy"):
        RetryPolicy(attempts=4, sleep=lambda seconds: None).run(work)
    assert work.calls == 4


def test_a_failure_may_allow_fewer_attempts() -> None:
    work = Failing(99, failure(attempts=2))
    with pytest.raises(RegistryUnavailable):
        RetryPolicy(attempts=9, sleep=lambda seconds: None).run(work)
    assert work.calls == 2


def test_there_is_a_limit_to_all_of_it() -> None:
    work = Failing(99, failure(retry_after=50.0))
    with pytest.raises(RegistryUnavailable):
        RetryPolicy(attempts=9, total=40.0, sleep=lambda seconds: None).run(work)
    assert work.calls == 1, "a wait that would end after the limit is not begun"


def test_progress_starts_the_count_again() -> None:
    done = 0
    waits: list[float] = []

    def work() -> str:
        nonlocal done
        done += 1
        if done < 10:
            raise failure()
        return "done"

    policy = RetryPolicy(attempts=2, first_delay=1.0, sleep=waits.append)
    assert policy.run(work, mark=lambda: done) == "done"
    assert max(waits) <= 1.0


def test_other_errors_pass_at_once() -> None:
    def work() -> None:
        raise RegistryRejected("no")

    with pytest.raises(RegistryRejected):
        RetryPolicy(sleep=lambda seconds: pytest.fail("waited")).run(work)
