"""Instructions of a Dockerfile as typed values (what the third pass gives; BuildKit calls it `instructions`).

One frozen dataclass an instruction. Words are kept as they were written, quotes and `$` included; `expanded(scope)`
returns a copy in which the words Docker expands are expanded and their quotes taken off (Dockerfile reference,
"Environment replacement"): ADD, ARG, COPY, ENV, EXPOSE, FROM, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR and the values
of `RUN --mount`. CMD, ENTRYPOINT, HEALTHCHECK, ONBUILD, SHELL and the command of RUN are not: their variables are the
business of the shell in the container. `COPY --from` is not expanded either; name a stage for it.

All words of one instruction are expanded against the same scope, the environment before it, so in `ENV a=1 b=$a`
b gets the old value of a. ARG is the exception, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self, TypeVar

from ci_plugins.dockerfile.excerpt import excerpt
from ci_plugins.dockerfile.expand import Scope, expand_document, expand_word, expand_words
from ci_plugins.errors import ExpansionError, Location

T = TypeVar("T")
Pairs = tuple[tuple[str, str], ...]


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
    """A command line for the stage's SHELL; `heredocs` are the documents it refers to, in order.

    `inline`: the one document is the whole command, as in `RUN <<EOF`.
    """

    text: str
    heredocs: tuple[Heredoc, ...] = ()
    inline: bool = False

    @property
    def executable(self) -> Heredoc | None:
        """A document that is the whole command and begins with `#!`: to be run as a file, not by the shell."""
        return self.heredocs[0] if self.inline and self.heredocs[0].content.startswith("#!") else None

    @property
    def script(self) -> str:
        """What the shell gets as its last argument: an inline document itself, else the text with its documents."""
        if self.inline:
            return self.heredocs[0].content
        return self.text + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in self.heredocs)


@dataclass(frozen=True, slots=True)
class ExecForm:
    """A JSON array: executed as it is. Empty in `CMD []` and `ENTRYPOINT []`, which clear the setting."""

    argv: tuple[str, ...]


Command = ShellForm | ExecForm


@dataclass(frozen=True, slots=True)
class Mount:
    """One `RUN --mount=…`, in its order. Names are the long ones (source, target, readonly, readwrite);
    an option without a value (`ro`, `required`) has the value "true"."""

    options: Pairs

    def get(self, name: str, default: str = "") -> str:
        return dict(self.options).get(name, default)

    @property
    def type(self) -> str:
        """bind, cache, tmpfs, secret or ssh."""
        return self.get("type", "bind").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all instructions have: their text and their place.

    `source` is the original text from the first line to the last (`end_line`, included), with line continuations and
    heredocs, without the final newline. `escape` is the escape character of the Dockerfile it stands in.
    """

    name: ClassVar[str] = ""
    source: str
    location: Location
    end_line: int
    escape: str = "\\"

    def expanded(self, scope: Scope) -> Self:
        """Raises ExpansionError with its place; this class expands nothing."""
        return self

    # -- for the expansions below ------------------------------------------------------------------------------------

    def _word(self, text: str, scope: Scope) -> str:
        return self._placed(text, partial(expand_word, text, scope, self.escape))

    def _words(self, texts: tuple[str, ...], scope: Scope) -> tuple[str, ...]:
        return tuple(self._word(text, scope) for text in texts)

    def _pairs(self, pairs: Pairs, scope: Scope) -> Pairs:
        return tuple((self._word(name, scope), self._word(value, scope)) for name, value in pairs)

    def _documents(self, heredocs: tuple[Heredoc, ...], scope: Scope) -> tuple[Heredoc, ...]:
        return tuple(
            replace(document, content=self._placed(document.content, partial(expand_document, document.content, scope)))
            if document.expand
            else document
            for document in heredocs
        )

    def _not_blank(self, what: str, before: str, after: str) -> str:
        if not after:
            raise self._error(f"the {what} of {self.name} is empty once {before} is expanded", before)
        return after

    def _placed(self, text: str, expand: Callable[[], T]) -> T:
        try:
            return expand()
        except ExpansionError as error:
            raise self._error(error.message, text, error.remedy) from error

    def _error(
        self, message: str, text: str, remedy: str = "Give the variable a value: --build-arg."
    ) -> ExpansionError:
        """With the place of `text`, or of the instruction where the text is spread over lines."""
        before, found, _ = self.source.partition(text)
        newlines = before.count("\n") if found else 0
        column = len(before) - before.rfind("\n") if newlines else self.location.column + len(before) * bool(found)
        where = replace(self.location, line=self.location.line + newlines, column=column)
        indented = " " * (self.location.column - 1) + self.source
        return ExpansionError(
            message, where=where, excerpt=excerpt(indented, where, first_line=self.location.line), remedy=remedy
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """Expanded with the global arguments only. `alias` is in lower case, "" where none is given."""

    name: ClassVar[str] = "FROM"
    image: str
    alias: str = ""
    platform: str = ""

    def expanded(self, scope: Scope) -> Self:
        image = self._not_blank("image", self.image, self._word(self.image, scope))
        platform = self.platform and self._not_blank("platform", self.platform, self._word(self.platform, scope))
        return replace(self, image=image, platform=platform)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """`network` is default, none or host, `security` insecure or sandbox, "" where not given."""

    name: ClassVar[str] = "RUN"
    command: Command
    mounts: tuple[Mount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()

    def expanded(self, scope: Scope) -> Self:
        mounts = tuple(
            Mount(tuple((name, self._word(value, scope)) for name, value in mount.options)) for mount in self.mounts
        )
        return replace(self, mounts=mounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """`heredocs` are inline files: each becomes the file `<destination>/<name>`, or `destination` itself where that
    does not end with a slash. `from_` is a stage or an image, "" for the build context."""

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

    def expanded(self, scope: Scope) -> Self:
        return replace(
            self,
            chown=self._word(self.chown, scope),
            chmod=self._word(self.chmod, scope),
            sources=self._words(self.sources, scope),
            destination=self._word(self.destination, scope),
            heredocs=self._documents(self.heredocs, scope),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    """As COPY. `keep_git_dir` and `unpack` are None where the flag is not given."""

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

    def expanded(self, scope: Scope) -> Self:
        return replace(
            self,
            chown=self._word(self.chown, scope),
            chmod=self._word(self.chmod, scope),
            checksum=self._word(self.checksum, scope),
            sources=self._words(self.sources, scope),
            destination=self._word(self.destination, scope),
            heredocs=self._documents(self.heredocs, scope),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    name: ClassVar[str] = "ENV"
    pairs: Pairs

    def expanded(self, scope: Scope) -> Self:
        return replace(self, pairs=self._pairs(self.pairs, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """`items` are (name, default); the default is None where none is written."""

    name: ClassVar[str] = "ARG"
    items: tuple[tuple[str, str | None], ...]

    def expanded(self, scope: Scope) -> Self:
        """Each default sees the items before it, as if every one had an instruction of its own."""
        return replace(self, items=self.resolved(scope))

    def resolved(
        self, scope: Scope, given: Mapping[str, str] | None = None, inherited: Mapping[str, str] | None = None
    ) -> tuple[tuple[str, str | None], ...]:
        """The values the items get: from `given` (--build-arg) first, where the default is not even expanded; then the
        default; then, for an item without one, from `inherited` (the global arguments, for an ARG in a stage).
        None: declared, but without a value. Raises ExpansionError."""
        given, inherited = given or {}, inherited or {}
        variables = dict(scope.variables)
        inner = Scope(variables)
        items: list[tuple[str, str | None]] = []
        for name, default in self.items:
            value = given.get(name)
            if value is None:
                value = inherited.get(name) if default is None else self._word(default, inner)
            if value is not None:
                variables[name] = value
            items.append((name, value))
        scope.used |= inner.used
        scope.missing |= inner.missing
        return tuple(items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    name: ClassVar[str] = "WORKDIR"
    path: str

    def expanded(self, scope: Scope) -> Self:
        return replace(self, path=self._word(self.path, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    name: ClassVar[str] = "USER"
    user: str

    def expanded(self, scope: Scope) -> Self:
        return replace(self, user=self._word(self.user, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    name: ClassVar[str] = "LABEL"
    pairs: Pairs

    def expanded(self, scope: Scope) -> Self:
        return replace(self, pairs=self._pairs(self.pairs, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """`ports` are specs like `80`, `53/udp`, `8000-8010/tcp`; `ports.exposed_ports` reads them once expanded.
    A variable may hold several, with spaces between."""

    name: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]

    def expanded(self, scope: Scope) -> Self:
        words = (self._placed(port, partial(expand_words, port, scope, self.escape)) for port in self.ports)
        return replace(self, ports=tuple(port for group in words for port in group))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    name: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]

    def expanded(self, scope: Scope) -> Self:
        paths = (self._not_blank("path", path, self._word(path, scope)) for path in self.paths)
        return replace(self, paths=tuple(paths))


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

    def expanded(self, scope: Scope) -> Self:
        return replace(self, signal=self._word(self.signal, scope))


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

    @property
    def test(self) -> tuple[str, ...]:
        """`Healthcheck.Test` of the image config."""
        match self.command:
            case ExecForm(argv):
                return ("CMD", *argv)
            case ShellForm(text):
                return ("CMD-SHELL", text)
            case _:
                return ("NONE",)


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
