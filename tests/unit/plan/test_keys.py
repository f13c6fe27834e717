"""Keys: equal for equal inputs only."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.oci import Platform, sha256_digest
from ci_plugins.plan.keys import base_key, fields_digest, step_key

AMD64 = Platform("linux", "amd64")

FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A form in which 1, True and 1.0 differ, and which compares by content."""
    if isinstance(value, dict):
        return ("map", sorted((name, typed(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", [typed(item) for item in value])
    return (type(value).__name__, repr(value))


@given(FIELDS, FIELDS)
def test_digests_are_equal_exactly_for_equal_fields(one: Any, other: Any) -> None:
    assert (fields_digest(one) == fields_digest(other)) == (typed(one) == typed(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((["a"], ["b"]), (["a", "b"], [])),
        (("a", None), ("a",)),
        ((1,), ("1",)),
        ((True,), (1,)),
        ((b"a",), ("a",)),
        (({"a": "b"},), (["a", "b"],)),
    ],
)
def test_neighbours_do_not_run_into_each_other(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert fields_digest(*one) != fields_digest(*other)


def test_the_order_of_a_mapping_does_not_count_and_that_of_a_list_does() -> None:
    assert fields_digest({"a": 1, "b": 2}) == fields_digest({"b": 2, "a": 1})
    assert fields_digest(["a", "b"]) != fields_digest(["b", "a"])


def test_what_has_no_encoding_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        fields_digest(1.5)  # type: ignore[arg-type]


def test_the_root_depends_on_platform_and_manifest() -> None:
    digest = sha256_digest(b"manifest")
    keys = {
        base_key(AMD64, None),
        base_key(AMD64, digest),
        base_key(Platform("linux", "arm64"), None),
        base_key(Platform("linux", "arm", "v7"), None),
    }
    assert len(keys) == 4


def test_a_step_depends_on_everything_before_it() -> None:
    root = base_key(AMD64, None)
    assert step_key(root, "RUN", "make") != step_key(step_key(root, "ENV", "A=1"), "RUN", "make")
    assert step_key(root, "RUN", "make") != step_key(root, "COPY", "make")
