"""Our `dataclass` beside the standard one: the same classes, made twice."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from ci_plugins import values


def classes(dataclass: Callable[..., Any]) -> SimpleNamespace:
    @dataclass(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list)
        secret: str = field(default="s", repr=False, compare=False)
        notes: Mapping[str, str] = field(default_factory=dict, hash=False)
        kind: ClassVar[str] = "point"

        @property
        def sum(self) -> int:
            return self.x + self.y

    @dataclass(frozen=True, slots=True)
    class Deep(Point):
        z: int = 0

        def __repr__(self) -> str:
            return "deep"

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        first: int
        second: str = "two"

    @dataclass(frozen=True, slots=True)
    class Checked:
        value: int

        def __post_init__(self) -> None:
            if self.value < 0:
                raise ValueError("negative")

        def __eq__(self, other: object) -> bool:
            return True

    @dataclass(frozen=True, slots=True)
    class Nothing:
        pass

    @dataclass(slots=True)
    class Changing:
        value: int

    return SimpleNamespace(**locals())


OURS, STANDARD = classes(values.dataclass), classes(dataclasses.dataclass)
NAMES = ("Point", "Deep", "Named", "Checked", "Nothing", "Changing")


def outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 (compared with the other's)
        return type(error), str(error)


@pytest.mark.parametrize(
    "what",
    [
        lambda c: c.Point(1),
        lambda c: c.Point(1, 3, ["a"], "other", {"n": "1"}),
        lambda c: c.Point(x=1, y=2),
        lambda c: c.Point(),
        lambda c: c.Point(1, unknown=2),
        lambda c: c.Point(1) == c.Point(1, secret="another"),
        lambda c: c.Point(1) == c.Point(2),
        lambda c: c.Point(1) == c.Deep(1),
        lambda c: c.Point(1) != 1,
        lambda c: c.Point(1, tags=()).__hash__() == c.Point(1, tags=(), notes={"not": "hashed"}).__hash__(),
        lambda c: hash(c.Point(1)),
        lambda c: hash(c.Named(first=1)) == hash(c.Named(first=1)),
        lambda c: c.Point(1).tags is c.Point(1).tags,
        lambda c: c.Point(1).sum,
        lambda c: c.Point.kind,
        lambda c: c.Deep(1, z=4),
        lambda c: (c.Deep(1, z=4).x, c.Deep(1, z=4).z),
        lambda c: c.Named(first=1),
        lambda c: c.Named(1),
        lambda c: c.Checked(-1),
        lambda c: c.Checked(1) == 7,
        lambda c: c.Nothing() == c.Nothing(),
        lambda c: (repr(c.Nothing()), hash(c.Nothing())),
        lambda c: setattr(c.Point(1), "x", 5),
        lambda c: delattr(c.Point(1), "x"),
        lambda c: hasattr(c.Point(1), "__dict__"),
        lambda c: setattr(c.Changing(1), "value", 5),
        lambda c: dataclasses.replace(c.Point(1), y=7),
        lambda c: dataclasses.replace(c.Named(first=1), second="b"),
        lambda c: dataclasses.asdict(c.Point(1)),
        lambda c: [(each.name, each.type) for each in dataclasses.fields(c.Deep)],
        lambda c: dataclasses.is_dataclass(c.Point),
        lambda c: copy.copy(c.Point(1, 5)),
        lambda c: copy.deepcopy(c.Point(1, 5)),
        lambda c: (c.Point.__match_args__, c.Named.__match_args__),
        lambda c: (c.Point.__doc__, c.Point.__module__, c.Point.__qualname__, c.Point.__name__),
        lambda c: [list(inspect.signature(getattr(c, name)).parameters) for name in NAMES],
    ],
)
def test_it_does_what_the_standard_one_does(what: Callable[[SimpleNamespace], object]) -> None:
    ours, standard = outcome(lambda: what(OURS)), outcome(lambda: what(STANDARD))
    if dataclasses.is_dataclass(ours):
        assert type(ours).__name__ == type(standard).__name__
        assert dataclasses.astuple(ours) == dataclasses.astuple(standard)  # type: ignore[arg-type, call-overload]
    assert repr(ours) == repr(standard)


@values.dataclass(frozen=True, slots=True)
class Sent:
    name: str
    size: int = 0


def test_values_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(Sent("a", 3))) == Sent("a", 3)


def test_only_the_constructor_is_compiled() -> None:
    """What is made by `exec` is what costs time when a class is defined."""
    generated = [name for name, each in vars(Sent).items() if getattr(each, "__code__", None)]
    compiled = [name for name in generated if vars(Sent)[name].__code__.co_filename == "<string>"]
    assert compiled == ["__init__"]
