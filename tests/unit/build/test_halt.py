"""The first reason is the one a person hears."""

from __future__ import annotations

import threading

import pytest

from ci_plugins.build.halt import Halt
from ci_plugins.errors import Interrupted, StepFailed
from ci_plugins.layer.budget import MemoryBudget


def test_the_first_reason_counts() -> None:
    told: list[BaseException] = []
    halt = Halt(told.append)
    halt.check()
    first = StepFailed("code 7")
    halt.because(first)
    halt.because(Interrupted("because of that"))
    assert told == [first]
    assert halt.event.is_set()
    with pytest.raises(StepFailed, match="code 7"):
        halt.check()


def test_who_is_told_may_halt_again() -> None:
    halt = Halt(lambda reason: halt.because(Interrupted("a consequence")))
    halt.because(StepFailed("cause"))
    with pytest.raises(StepFailed):
        halt.check()


def test_a_budget_that_refuses_wakes_who_waits() -> None:
    budget, raised = MemoryBudget(10), []
    budget.acquire(10)

    def wait() -> None:
        try:
            budget.acquire(5)
        except Interrupted as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    reason = Interrupted("stopped")
    budget.refuse(reason)
    waiting.join(5)
    assert raised == [reason]
    with pytest.raises(Interrupted):
        budget.try_acquire(1)
    budget.release(10)
    assert budget.used == 0
