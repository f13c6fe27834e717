from __future__ import annotations

import random
import threading

import pytest

from ci_plugins.layer.budget import MemoryBudget


def test_it_gives_no_more_than_it_has() -> None:
    budget = MemoryBudget(10)
    assert budget.try_acquire(6)
    assert not budget.try_acquire(5)
    assert budget.try_acquire(4)
    budget.release(10)
    assert budget.used == 0


def test_who_is_alone_may_take_more_than_there_is() -> None:
    budget = MemoryBudget(10)
    assert budget.try_acquire(50)
    assert not budget.try_acquire(1)
    budget.release(50)
    budget.acquire(50)
    assert budget.used == 50


def test_a_waiter_goes_before_who_tries() -> None:
    budget = MemoryBudget(10)
    assert budget.try_acquire(8)
    waiter = threading.Thread(target=budget.acquire, args=(5,), daemon=True)
    waiter.start()
    while budget.try_acquire(1):
        budget.release(1)
    budget.release(8)
    waiter.join(10)
    assert not waiter.is_alive()
    assert budget.used == 5


def test_nobody_waits_for_ever() -> None:
    """Streams of random appetite that follow the rule: wait only while holding nothing."""
    budget = MemoryBudget(16)
    ended = []

    def stream(seed: int) -> None:
        chance, held = random.Random(seed), []
        for _ in range(300):
            size = chance.randint(1, 9)
            while not budget.try_acquire(size):
                if not held:
                    budget.acquire(size)
                    break
                budget.release(held.pop(0))
            held.append(size)
            if chance.random() < 0.3:
                budget.release(held.pop(0))
        budget.release(sum(held))
        ended.append(seed)

    threads = [threading.Thread(target=stream, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 8
    assert budget.used == 0


def test_it_cannot_be_nothing() -> None:
    with pytest.raises(ValueError, match="positive"):
        MemoryBudget(0)
