"""What an option is, what kinds of values there are, and where a value came from."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ci_plugins.errors import CiPluginsError, ConfigError, Location, UsageError
from ci_plugins.oci import Platform, Reference
from ci_plugins.options.settings import Output


class Source(enum.StrEnum):
    """Lowest precedence first."""

    DEFAULT = "default"
    #: what the CI tells: weaker than whatever a person wrote
    DETECTED = "detected"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. `name` is the flag, variable, dotted key or CI; `where` its place in the file."""

    source: Source
    name: str = ""
    where: Location | None = None

    def __str__(self) -> str:
        """For people: "--tag", "CI_PLUGINS_TAG", "ci-plugins.yml:3:1", "GitHub Actions", "default"."""
        return str(self.where or self.name or self.source)

    def error(self, message: str, remedy: str | None = None) -> CiPluginsError:
        """An error in the value: usage for a flag, configuration for the rest; says where it was written."""
        if self.source is Source.FLAG:
            return UsageError(f"{self.name}: {message}", remedy=remedy)
        name = f"environment variable {self.name}" if self.source is Source.ENVIRONMENT else self.name
        return ConfigError(f"{name}: {message}", remedy=remedy, where=self.where)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. `parse` takes text and raises ValueError with a reason; `format` is its inverse."""

    metavar: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str] = str
    #: JSON schema of one value in ci-plugins.yml
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": ["string", "number", "boolean"]})
    #: the YAML scalar types that are taken, by their text as written: `3.10` stays "3.10", not 3.1
    scalars: tuple[str, ...] = ("str", "int", "float", "bool", "timestamp")
    #: moves a relative path in a value to a directory: paths in a file are relative to that file
    rebase: Callable[[Any, Path], Any] | None = None


class Shape(enum.Enum):
    ONE = "one"
    #: repeatable; a sequence in the file, one a line in the variable
    LIST = "list"
    #: repeatable NAME=VALUE; a mapping in the file, one a line in the variable
    MAP = "map"


class Alone(enum.Enum):
    """What NAME without `=VALUE` means."""

    ENVIRONMENT = "the environment's value, nothing where it has none"
    EMPTY = "an empty value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option, declared once. Flag, variable, file key, help, docs and schema are derived from it."""

    name: str
    kind: Kind
    help: str
    group: str
    commands: tuple[str, ...]
    shape: Shape = Shape.ONE
    alone: Alone = Alone.EMPTY
    default: Any = None
    #: what people read where the default is worked out
    default_text: str = ""
    #: as `default_text`, where the CI may tell another default
    detected: str = ""
    short: str = ""
    #: path of the key in ci-plugins.yml where it is not the name
    key: tuple[str, ...] = ()
    #: field of the settings where it is not the name
    attribute: str = ""
    positional: bool = False
    #: False: it is needed before the file can be read, so it cannot stand in it and is no part of the settings
    in_file: bool = True
    #: the value may be a credential: errors and documents do not repeat it
    secret: bool = False

    @property
    def flag(self) -> str:
        return self.name.upper() if self.positional else f"--{self.name}"

    @property
    def variable(self) -> str:
        return "CI_PLUGINS_" + self.name.upper().replace("-", "_")

    @property
    def path(self) -> tuple[str, ...]:
        return self.key or (self.name.replace("-", "_"),)

    @property
    def field(self) -> str:
        return self.attribute or self.name.replace("-", "_")

    @property
    def empty(self) -> Any:
        """The value when nobody gives one."""
        return {Shape.ONE: self.default, Shape.LIST: (), Shape.MAP: MappingProxyType({})}[self.shape]


# --- kinds ----------------------------------------------------------------------------------------------------------


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("expected a path")
    return Path(text)


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "on"):
        return True
    if lowered in ("false", "0", "no", "off"):
        return False
    raise ValueError(f"expected true or false, not {text!r}")


_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})\s*(?:([kmgt])i?)?b?", text.strip().lower())
    if not match or int(match[1]) == 0:
        raise ValueError(f"expected a size such as 256MiB or 1g (units of 1024), not {text!r}")
    return int(match[1]) << (10 * _UNITS[match[2] or ""])


def format_size(size: int) -> str:
    """The largest unit that keeps it exact: 268435456 → "256MiB"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size % (1 << 10 * power) == 0:
            return f"{size >> 10 * power}{unit}"
    return f"{size}B"


_PERIODS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def _duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip().lower())
    if not match:
        raise ValueError(f"expected a duration such as 14d, 36h, 90m or 2w, not {text!r}")
    return int(match[1]) * _PERIODS[match[2]]


def format_duration(seconds: int) -> str:
    """The largest unit that keeps it exact: 1209600 → "2w"."""
    unit = next((unit for unit, length in reversed(_PERIODS.items()) if seconds % length == 0), "m")
    return f"{seconds // _PERIODS[unit]}{unit}"


def _tag(text: str) -> Reference:
    reference = Reference.parse(text)
    if reference.digest:
        raise ValueError(f"a tag cannot name a digest: {text!r}")
    return reference


def _platform(text: str) -> Platform:
    if "," in text:
        raise ValueError(f"one platform a build, not {text!r}")
    return Platform.parse(text)


def _output(text: str) -> Output:
    form, colon, path = text.partition(":")
    if form != "oci" or not colon or not path or "\0" in path:
        raise ValueError(f"expected oci:DIR (an OCI image layout in a directory), not {text!r}")
    return Output("oci", Path(path))


def _host(text: str) -> str:
    if "://" in text:
        raise ValueError(f"expected HOST[:PORT] without a scheme, not {text!r}")
    try:
        Reference.parse(f"{text}/name")
    except ValueError:
        raise ValueError(f"expected HOST[:PORT], not {text!r}") from None
    if not re.search(r"[.:]|^localhost$", text):
        raise ValueError(f"a registry host has a dot or a port, or is localhost: {text!r}")
    return text


_STRING = {"type": "string"}

TEXT = Kind("TEXT", str)
PATH = Kind("PATH", _path, schema=_STRING, rebase=lambda path, base: base / path)
FLAG = Kind("", _flag, lambda value: "true" if value else "false", {"type": "boolean"}, ("bool",))
SIZE = Kind("SIZE", _size, format_size, {"type": ["string", "integer"]}, ("str", "int"))
#: in seconds
DURATION = Kind("DURATION", _duration, format_duration, _STRING, ("str",))
TAG = Kind("NAME[:TAG]", _tag, schema=_STRING, scalars=("str",))
PLATFORM = Kind("OS/ARCH", _platform, schema=_STRING, scalars=("str",))
HOST = Kind("HOST[:PORT]", _host, schema=_STRING, scalars=("str",))
OUTPUT = Kind(
    "oci:DIR",
    _output,
    schema={"type": "string", "pattern": "^oci:."},
    scalars=("str",),
    rebase=lambda output, base: Output(output.format, base / output.path),
)


def whole_number(lowest: int, highest: int) -> Kind:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}, not {text!r}")
        return int(text)

    return Kind("N", parse, schema={"type": "integer", "minimum": lowest, "maximum": highest}, scalars=("int",))


def one_of(*values: str) -> Kind:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"expected {' or '.join(values)}, not {text!r}")
        return text

    return Kind("|".join(values), parse, schema={"enum": list(values)}, scalars=("str",))
