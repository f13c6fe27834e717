"""Instructions of a Dockerfile as typed values (third pass: what BuildKit calls `instructions`).

One frozen dataclass an instruction. Words are kept as they were written, quotes and `$` included;
`expanded(scope)` returns a copy in which the words Docker expands are expanded (Dockerfile reference,
"Environment replacement"): ADD, ARG, COPY, ENV, EXPOSE, FROM, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR and the
values of `RUN --mount`. CMD, ENTRYPOINT, HEALTHCHECK, ONBUILD, SHELL and the command of RUN are not: their
variables are the business of the shell in the container.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ci_plugins.dockerfile.expand import Scope
from ci_plugins.errors import Location


@dataclass(frozen=True, slots=True)
class Heredoc:
    """An inline document: `<<EOF`, `<<-EOF` (leading tabs taken off), `<<'EOF'` (variables left alone).

    `content` is the text between the delimiter lines with its final newline, tabs already taken off.
    """

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False


@dataclass(frozen=True, slots=True)
class ShellForm:
    """A command line for the stage's SHELL; `heredocs` are the documents it refers to, in order."""

    text: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecForm:
    """A JSON array: executed as it is."""

    argv: tuple[str, ...]


Command = ShellForm | ExecForm


@dataclass(frozen=True, slots=True)
class Mount:
    """One `RUN --mount=…`. `options` in their order, names in lower case, a missing value is the empty string."""

    text: str
    options: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str = "") -> str:
        return dict(self.options).get(name, default)

    @property
    def type(self) -> str:
        return self.get("type", "bind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all instructions have: their text and their place.

    `source` is the original text from the first line to the last, line continuations and heredocs included.
    """

    name: ClassVar[str] = ""
    source: str
    location: Location
    end_line: int
    escape: str = "\\"

    def expanded(self, scope: Scope) -> Self:
        """Raises ExpansionError, with this instruction's place."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    name: ClassVar[str] = "FROM"
    image: str
    alias: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    name: ClassVar[str] = "RUN"
    command: Command
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """`heredocs` are inline files: each becomes the file `<destination>/<name>`, or `destination` itself."""

    name: ClassVar[str] = "COPY"
    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    """`unpack` and `keep_git_dir` are None where the flag is not given."""

    name: ClassVar[str] = "ADD"
    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    name: ClassVar[str] = "ENV"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """`items` are (name, default); the default is None where none is written."""

    name: ClassVar[str] = "ARG"
    items: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    name: ClassVar[str] = "WORKDIR"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    name: ClassVar[str] = "USER"
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    name: ClassVar[str] = "LABEL"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    name: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    name: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    name: ClassVar[str] = "CMD"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    name: ClassVar[str] = "ENTRYPOINT"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    name: ClassVar[str] = "SHELL"
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    name: ClassVar[str] = "STOPSIGNAL"
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """`command` is None for HEALTHCHECK NONE. Durations in nanoseconds, 0 where not given, as in the image config."""

    name: ClassVar[str] = "HEALTHCHECK"
    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @property
    def disabled(self) -> bool:
        return self.command is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """`text` is what goes into the image config; `instruction` the same, parsed."""

    name: ClassVar[str] = "ONBUILD"
    text: str
    instruction: Instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    name: ClassVar[str] = "MAINTAINER"
    author: str
