"""`dataclass`, for values: the standard one, made several times as fast.

Before Python 3.13 every `dataclass(frozen=True, slots=True)` compiles six functions one by one. A build loads some 170
of them, a quarter of all the time an unchanged one takes. Here only `__init__` is compiled; the rest are closures that
say the same. What else `dataclasses` knows (`replace`, `fields`, `asdict`, patterns) works with them; for type
checkers it is the standard one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False):
        """As `dataclasses.dataclass`. Fast for what is frozen and has slots, passed on otherwise."""
        if not (frozen and slots):
            return dataclasses.dataclass(cls, frozen=frozen, slots=slots, kw_only=kw_only)
        return _value(cls, kw_only) if cls else lambda each: _value(each, kw_only)


def _value(cls: type, kw_only: bool) -> type:
    cls.__doc__ = cls.__doc__ or ""  # else the standard library takes pains to write one
    dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
    fields = dataclasses.fields(cls)
    made = _with_slots(cls, [field.name for field in fields])
    setters = {f"_set_{field.name}": getattr(made, field.name).__set__ for field in fields}
    shown = [field.name for field in fields if field.repr]
    compared = _values_of([field.name for field in fields if field.compare])
    hashed = _values_of([field.name for field in fields if (field.compare if field.hash is None else field.hash)])
    whole = _values_of([field.name for field in fields])

    def __repr__(self: Any) -> str:  # noqa: N807
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(hashed(self))

    def __getstate__(self: Any) -> tuple[Any, ...]:  # noqa: N807
        return whole(self)

    def __setstate__(self: Any, state: tuple[Any, ...]) -> None:  # noqa: N807
        for set_field, value in zip(setters.values(), state, strict=True):
            set_field(self, value)

    for function in (_init(made, fields, setters), __repr__, __eq__, __getstate__, __setstate__):
        if function.__name__ not in made.__dict__:
            function.__qualname__ = f"{made.__qualname__}.{function.__name__}"  # so it is named where it fails
            setattr(made, function.__name__, function)
    if made.__dict__.get("__hash__") is None:  # a class with an `__eq__` of its own has None there
        made.__hash__ = __hash__  # type: ignore[method-assign, assignment]
    made.__setattr__ = _refuse_to_set  # type: ignore[method-assign, assignment]
    made.__delattr__ = _refuse_to_delete  # type: ignore[method-assign, assignment]
    return made


def _with_slots(cls: type, names: Sequence[str]) -> type:
    """The class once more: slots cannot be added to one that is there."""
    inherited = {name for base in cls.__mro__[1:-1] for name in base.__dict__.get("__slots__", ())}
    body = {name: value for name, value in cls.__dict__.items() if name not in (*names, "__dict__", "__weakref__")}
    body["__slots__"] = tuple(name for name in names if name not in inherited)
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    return made


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _init(
    made: type, fields: Sequence[dataclasses.Field[Any]], setters: dict[str, Callable[..., None]]
) -> Callable[..., None]:
    known: dict[str, Any] = {**setters, "_new": _new}
    positional: list[str] = []
    by_name: list[str] = []
    body: list[str] = []
    for field in fields:
        name, parameter, value = field.name, field.name, field.name
        if field.default is not dataclasses.MISSING:
            parameter, known[f"_default_{name}"] = f"{name}=_default_{name}", field.default
        elif field.default_factory is not dataclasses.MISSING:
            parameter, known[f"_make_{name}"] = f"{name}=_new", field.default_factory
            value = f"_make_{name}() if {name} is _new else {name}"
        (by_name if field.kw_only else positional).append(parameter)
        body.append(f"_set_{name}(self, {value})")
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join(["self", *positional, *(["*", *by_name] if by_name else [])])
    exec(f"def __init__({parameters}):\n " + "\n ".join(body or ["pass"]), known)
    init: Callable[..., None] = known["__init__"]
    return init


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


#: stands for "not given" where a new value is made for every instance
_new = object()
