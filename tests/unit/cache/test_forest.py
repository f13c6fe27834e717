"""What a prune takes, over forests of any shape."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.cache.forest import Node, moment, newest_first, to_prune
from tests.cache_suite import record


@st.composite
def forests(draw: st.DrawFn) -> list[Node]:
    """Nodes in two scopes, each standing on an earlier key, or on none."""
    nodes = []
    for number in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(-1, number - 1))
        layer = draw(st.sampled_from(["", "a", "b", str(number)]))
        for scope in draw(st.sampled_from([("x",), ("y",), ("x", "y")])):
            used = float(draw(st.integers(0, 9)))
            nodes.append(Node(scope, str(number), "" if parent < 0 else str(parent), layer, 10 if layer else 0, used))
    return draw(st.permutations(nodes))


def size(nodes: list[Node]) -> int:
    return sum({node.layer: node.size for node in nodes}.values())


@given(forests(), st.one_of(st.none(), st.integers(0, 10)), st.one_of(st.none(), st.integers(0, 100)))
def test_prune(nodes: list[Node], age: int | None, most: int | None) -> None:
    gone, pruned = to_prune(nodes, None if age is None else datetime.fromtimestamp(age, UTC), most)
    left = [node for node in nodes if node not in gone]
    assert pruned.records == len(gone) == len(nodes) - len(left)
    assert pruned.bytes == size(nodes) - size(left)
    assert most is None or size(left) <= most
    # what is left never stands on what is gone
    for node in left:
        parents = [one for one in nodes if one.key == node.parent]
        own = [one for one in parents if one.scope == node.scope]
        assert not [one for one in own or parents if one in gone]
    # nobody goes for nothing: it is too old, or was in the way of the size
    if most is None:
        assert all(age is not None and node.used < age for node in gone)
    if age is None and most is None:
        assert not gone


@given(forests(), st.integers(0, 100))
def test_no_more_is_taken_than_the_size_asks_for(nodes: list[Node], most: int) -> None:
    gone, _ = to_prune(nodes, None, most)
    if gone:
        assert size([node for node in nodes if node not in gone[:-1]]) > most


def test_records_that_stand_on_each_other_in_a_circle() -> None:
    nodes = [Node("x", "1", "2", "a", 10, 1.0), Node("x", "2", "1", "b", 10, 2.0), Node("x", "3", "3", "c", 10, 3.0)]
    gone, pruned = to_prune(nodes, None, 0)
    assert len(gone) == 3
    assert pruned.bytes == 30


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z"),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z"),
        ("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:01Z"),
        ("not a time", "1971-01-01T00:00:00Z"),
        ("", "1971-01-01T00:00:00"),
    ],
)
def test_times(earlier: str, later: str) -> None:
    assert moment(earlier) < moment(later)


def test_newest_first() -> None:
    records = [record(number, minute=minute) for number, minute in enumerate((3, 9, 1))]
    assert [item.created[14:16] for item in newest_first(records)] == ["09", "03", "01"]
