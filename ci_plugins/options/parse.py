"""argv, environment and file → one frozen settings object. Precedence: default < detected < file < environment < flag.

Options that take one value take the strongest source's. Repeatable ones likewise, as a whole; those of the form
NAME=VALUE are merged by name, so that a flag overrides one build argument of the file and keeps the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ci_plugins.errors import ConfigError, UsageError
from ci_plugins.oci import Reference
from ci_plugins.options.arguments import Given, HelpAsked, nearest, read_arguments
from ci_plugins.options.commands import BUILD, CACHE, CACHE_INDEX, CACHE_PRUNE, CACHE_WHY, COMMANDS, PLAN
from ci_plugins.options.declared import OPTIONS, options_of
from ci_plugins.options.detected import Detected
from ci_plugins.options.file import FILE_NAME, read_file
from ci_plugins.options.model import Alone, Option, Origin, Shape, Source
from ci_plugins.options.settings import BuildOptions, CacheOptions, IndexOptions, PlanOptions, ServeOptions, Settings

DEFAULT = Origin(Source.DEFAULT)
_ORDER = {source: place for place, source in enumerate(Source)}


@dataclass(frozen=True, slots=True)
class Invocation:
    """What was asked. `options` is None for `help` and `version`; `topic` is the command help is wanted for."""

    command: str
    options: Settings | None = None
    topic: str = ""
    #: settings field → where its value came from
    origins: Mapping[str, Origin] = field(default_factory=dict)


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str],
    directory: Path = Path(),
    detect: Callable[[Mapping[str, str]], Detected | None] = lambda environ: None,
) -> Invocation:
    """`argv` without the program's name; the file is looked for in `directory`; `detect` says what the CI tells, and is
    asked if the command depends on it. Raises UsageError, ConfigError."""
    if not argv or argv[0] in ("help", "-h", "--help"):
        topic = _command(argv[1:])[0]
        return Invocation("help", topic=topic if topic in COMMANDS or topic in _groups() else "")
    command, arguments = _command(argv)
    if command in ("version", "-v", "--version"):
        return Invocation("version")
    if command in _groups() and (not arguments or arguments[0] in ("help", "-h", "--help")):
        return Invocation("help", topic=command)
    if command not in COMMANDS:
        raise _unknown_command(command, arguments)
    options = options_of(command)
    try:
        flags = read_arguments(arguments, options)
    except HelpAsked:
        return Invocation("help", topic=command)
    given = [*_environment(environ), *flags]
    file = _config_file(given, directory)
    if file:
        given = [*read_file(file, OPTIONS), *given]
    if command in (BUILD, PLAN) and (detected := detect(environ)):
        given = [*detected.beside(given), *given]
    chosen = {id(option) for option in options}
    # what a plan does not depend on has its default
    unasked = [option for option in options_of(BUILD) if option not in options] if command == PLAN else []
    values = resolve([each for each in given if id(each.option) in chosen], (*options, *unasked), environ, file)
    return Invocation(command, settings(command, values, environ), origins=_origins(values))


def _groups() -> set[str]:
    """First words of commands that are of two."""
    return {command.partition(" ")[0] for command in COMMANDS if " " in command}


def _command(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command, of one word or two, and its arguments; empty for no argument."""
    two = " ".join(argv[:2])
    return (two, argv[2:]) if two in COMMANDS else (argv[0] if argv else "", argv[1:])


def _unknown_command(command: str, arguments: Sequence[str]) -> UsageError:
    if command in _groups():
        members = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{command} ")]
        remedy = f"It takes {', '.join(members[:-1])} or {members[-1]}."
        return UsageError(f"unknown command {command} {arguments[0]}", remedy=remedy)
    near = nearest(command, [*COMMANDS, *_groups(), "version", "help"])
    kind = "option" if command.startswith("-") else "command"
    remedy = f"Did you mean {near}?" if near else f"The commands are {', '.join(COMMANDS)}, version and help."
    return UsageError(f"unknown {kind} {command}", remedy=remedy)


@dataclass(frozen=True, slots=True)
class Resolved:
    """An option's value and where it came from; of a merged mapping, where its strongest part came from."""

    option: Option
    value: Any
    origin: Origin


def resolve(
    given: Iterable[Given], options: Sequence[Option], environ: Mapping[str, str], file: Path | None = None
) -> tuple[Resolved, ...]:
    by_option: dict[str, list[Given]] = {option.name: [] for option in options}
    for each in given:
        by_option[each.option.name].append(each)
    base = file.parent if file else Path()
    return tuple(_resolve(option, by_option[option.name], environ, base) for option in options)


def _resolve(option: Option, given: list[Given], environ: Mapping[str, str], base: Path) -> Resolved:
    # a weaker source's value is checked too: a mistake in the file is a mistake although a flag hides it today
    parsed = [(each, _value(each, environ, base)) for each in given]
    if not parsed:
        return Resolved(option, option.empty, DEFAULT)
    strongest = max((each.origin for each, _ in parsed), key=lambda origin: _ORDER[origin.source])
    if option.shape is Shape.MAP:
        in_order = sorted(parsed, key=lambda pair: _ORDER[pair[0].origin.source])
        merged = dict(value for _, value in in_order if value is not None)
        return Resolved(option, MappingProxyType(merged), strongest)
    values = [(each.origin, value) for each, value in parsed if each.origin.source is strongest.source]
    if option.shape is Shape.LIST:
        return Resolved(option, tuple(dict.fromkeys(value for _, value in values)), strongest)
    return Resolved(option, values[-1][1], values[-1][0])


def _value(given: Given, environ: Mapping[str, str], base: Path) -> Any:
    option = given.option
    if option.shape is Shape.MAP:
        return _pair(given, environ)
    try:
        value = option.kind.parse(given.text)
    except ValueError as error:
        raise given.origin.error(str(error)) from None
    if given.origin.source is Source.FILE and option.kind.rebase:
        return option.kind.rebase(value, base)
    return value


def _pair(given: Given, environ: Mapping[str, str]) -> tuple[str, str] | None:
    name, equals, value = given.text.partition("=")
    if not name:
        shown = "a value without a name" if given.option.secret else repr(given.text)
        raise given.origin.error(f"expected NAME=VALUE, not {shown}")
    if "\0" in given.text:
        raise given.origin.error(f"{name}: a value cannot hold a zero byte")
    if equals or given.option.alone is Alone.EMPTY:
        return name, value
    return (name, environ[name]) if name in environ else None


def _environment(environ: Mapping[str, str]) -> list[Given]:
    """Empty variables count as unset: CI systems define them for inputs nobody filled in."""
    known = {option.variable: option for option in OPTIONS}
    found: list[Given] = []
    for name, text in sorted(environ.items()):
        if not name.startswith("CI_PLUGINS_") or not text:
            continue
        option = known.get(name)
        if option is None:
            near = nearest(name, known)
            remedy = f"Did you mean {near}?" if near else None
            raise ConfigError(f"unknown environment variable {name}", remedy=remedy)
        lines = [text] if option.shape is Shape.ONE else [line.strip() for line in text.splitlines() if line.strip()]
        found += [Given(option, line, Origin(Source.ENVIRONMENT, name)) for line in lines]
    return found


def _config_file(given: Iterable[Given], directory: Path) -> Path | None:
    """Named by flag or variable it has to exist; otherwise it is used where it does."""
    named = [each for each in given if each.option.name == "config"]
    if named:
        last = named[-1]
        path = directory / last.text
        if not path.is_file():
            raise last.origin.error(f"there is no file {last.text}", remedy="Check the name of the configuration file.")
        return path
    path = directory / FILE_NAME
    return path if path.is_file() else None


def _origins(values: Iterable[Resolved]) -> Mapping[str, Origin]:
    return MappingProxyType({each.option.field: each.origin for each in values})


# --- settings -------------------------------------------------------------------------------------------------------


def settings(command: str, values: Sequence[Resolved], environ: Mapping[str, str]) -> Settings:
    """Fill in what is worked out, check what only makes sense together."""
    resolved = {each.option.field: each for each in values}
    made = {name: each.value for name, each in resolved.items()}
    if made.get("state", "") is None:
        made["state"] = state_directory(environ, "ci-plugins")
    if command == CACHE_INDEX:
        _check_index(resolved)
        return IndexOptions(**{each.name: made[each.name] for each in fields(IndexOptions)})
    if command in CACHE:
        _check_cache(command, resolved)
        known = {each.name for each in fields(CacheOptions)}
        action: Any = command.partition(" ")[2]
        return CacheOptions(action=action, **{name: value for name, value in made.items() if name in known})
    if command in (BUILD, PLAN):
        _check_build(resolved)
        made["scope_origin"] = _scope_origin(resolved)
        build = BuildOptions(**{each.name: made[each.name] for each in fields(BuildOptions)})
        return PlanOptions(build=build, json=made["json"]) if command == PLAN else build
    if made["root"] is None:
        made["root"] = state_directory(environ, "ci-plugins-registry")
    return ServeOptions(**{each.name: made[each.name] for each in fields(ServeOptions)})


def _scope_origin(resolved: Mapping[str, Resolved]) -> str:
    scope, read = resolved["cache_scope"].origin, resolved["cache_read"].origin
    return str(read if scope.source is Source.DEFAULT else scope)


def state_directory(environ: Mapping[str, str], name: str) -> Path:
    """XDG base directory specification: a relative $XDG_STATE_HOME is to be ignored."""
    given = environ.get("XDG_STATE_HOME", "")
    if given.startswith("/"):
        return Path(given) / name
    home = environ.get("HOME", "")
    return Path(home) / ".local/state" / name if home else Path("/var/lib") / name


def _check_cache(command: str, resolved: Mapping[str, Resolved]) -> None:
    if command == CACHE_WHY and not resolved["subject"].value:
        raise UsageError(
            "cache why: nothing says what to explain",
            remedy="Give an image's name or a step's key; cache tree shows them.",
        )
    if command == CACHE_PRUNE and resolved["older_than"].value is None and resolved["max_size"].value is None:
        raise UsageError(
            "cache prune: nothing says what to forget", remedy="Give --older-than 14d, --max-size 20GB, or both."
        )


def _check_index(resolved: Mapping[str, Resolved]) -> None:
    names, whole = resolved["repositories"], resolved["whole_registry"].value
    if not names.value:
        raise UsageError(
            "cache index: nothing says which images to read",
            remedy="Give repositories: HOST/NAME …, or with --all a registry: HOST.",
        )
    for name in names.value:
        try:
            Reference.parse(f"{name}/all" if whole else name)
        except ValueError as error:
            raise names.origin.error(str(error)) from error
        if whole and "/" in name:
            raise names.origin.error(f"{name} is a repository", remedy="Give the registry alone, or leave out --all.")
        if not whole and ("@" in name or ":" in name.rpartition("/")[2]):
            raise names.origin.error(f"{name} is an image", remedy="Give the repository: all its tags are read.")


_LEVELS = {"gzip": (0, 9), "zstd": (1, 22)}


def _check_build(resolved: Mapping[str, Resolved]) -> None:
    push, level = resolved["push"], resolved["compression_level"]
    if push.value and not resolved["tags"].value:
        raise push.origin.error("nothing says where to push to", remedy="Name the image with --tag HOST/NAME:TAG.")
    scope = resolved["cache_scope"]
    if not scope.value.strip():
        raise scope.origin.error(
            "the name is empty: builds that should be kept apart would share it",
            remedy="Name a branch or pull request; a variable that is not set may be the reason.",
        )
    lowest, highest = _LEVELS[resolved["compression"].value]
    if level.value is not None and not lowest <= level.value <= highest:
        kind = resolved["compression"].value
        raise level.origin.error(f"{kind} takes levels {lowest} to {highest}, not {level.value}")
    context, file = resolved["context"], resolved["file"]
    if str(context.value) == "-" or str(file.value) == "-":
        which = context if str(context.value) == "-" else file
        raise which.origin.error(
            "standard input cannot be read here", remedy="Write it to a file or directory and name that."
        )
    # Path() folds the two slashes of a URL into one
    if str(context.value).startswith(("http:/", "https:/", "git:/", "ssh:/", "git@")):
        raise context.origin.error(
            f"{context.value} is not a directory", remedy="Check the sources out first and name that directory."
        )
