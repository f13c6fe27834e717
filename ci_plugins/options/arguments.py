"""Reading a command line the way docker does (Go's pflag), which argparse cannot: `--build-arg -x` takes `-x`,
`--push=false` is false, and an unknown flag is named together with what to use instead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ci_plugins.errors import UsageError
from ci_plugins.options.foreign import INSTEAD
from ci_plugins.options.model import FLAG, Option, Origin, Shape, Source


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it."""

    option: Option
    text: str
    origin: Origin


class HelpAsked(Exception):
    """-h or --help stood among the flags: nothing else on the command line counts."""


def read_arguments(arguments: Sequence[str], options: Sequence[Option]) -> tuple[Given, ...]:
    """Raises UsageError, HelpAsked."""
    long = {f"--{option.name}": option for option in options if not option.positional}
    short = {f"-{option.short}": option for option in options if option.short}
    places = [option for option in options if option.positional]
    found: list[Given] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            for operand in rest:
                found.append(_operand(operand, places))
        elif word.startswith("--"):
            found.append(_long(word, rest, long))
        elif word.startswith("-") and word != "-":
            found.extend(_cluster(word, rest, short))
        else:
            found.append(_operand(word, places))
    return tuple(found)


def _operand(word: str, places: list[Option]) -> Given:
    if not places:
        raise UsageError(f"unexpected argument {word!r}", remedy="Give the name of an option before every value.")
    option = places[0] if places[0].shape is Shape.LIST else places.pop(0)
    return Given(option, word, Origin(Source.FLAG, option.flag))


def _long(word: str, rest: Iterator[str], known: dict[str, Option]) -> Given:
    name, equals, value = word.partition("=")
    if name == "--help":
        raise HelpAsked
    if name not in known:
        raise _unknown(name, known)
    option = known[name]
    if not equals:
        value = "true" if option.kind is FLAG else _next(name, rest, option)
    return Given(option, value, Origin(Source.FLAG, name))


def _cluster(word: str, rest: Iterator[str], known: dict[str, Option]) -> Iterator[Given]:
    """`-q`, `-t name`, `-tname`, `-t=name`, `-qt name`."""
    letters = word[1:]
    while letters:
        name, letters = "-" + letters[0], letters[1:]
        if name == "-h":
            raise HelpAsked
        if name not in known:
            raise _unknown(name, known)
        option = known[name]
        if option.kind is FLAG and not letters.startswith("="):
            yield Given(option, "true", Origin(Source.FLAG, name))
            continue
        text = letters.removeprefix("=") if letters else _next(name, rest, option)
        yield Given(option, text, Origin(Source.FLAG, name))
        return


def _next(name: str, rest: Iterator[str], option: Option) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"{name}: needs a value ({option.kind.metavar})")
    return value


def _unknown(name: str, known: dict[str, Option]) -> UsageError:
    if name in INSTEAD:
        return UsageError(f"{name} of docker build is not an option here", remedy=INSTEAD[name])
    near = nearest(name, known)
    return UsageError(f"unknown option {name}", remedy=f"Did you mean {near}?" if near else None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like it, or nothing."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")
