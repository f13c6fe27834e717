"""Sums over stretches of time that may overlap. An interval is (start, end)."""

from __future__ import annotations

from collections.abc import Iterable


def union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time, as ordered intervals that do not touch."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif end > start:
            merged.append((start, end))
    return merged


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    return sum(end - start for start, end in union(intervals))


def shared(ours: Iterable[tuple[float, float]], theirs: Iterable[tuple[float, float]]) -> float:
    """How long both have at least one interval running."""
    left, right = union(ours), union(theirs)
    return covered((max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) < min(b, d))
