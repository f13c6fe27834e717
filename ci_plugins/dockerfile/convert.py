"""Second pass to third: nodes → typed instructions. One small function an instruction, found by its keyword."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from ci_plugins.dockerfile import instructions as typed
from ci_plugins.dockerfile.duration import parse_duration
from ci_plugins.dockerfile.flags import Flags, Kind, take_flags
from ci_plugins.dockerfile.heredoc import is_opening, parse_opening
from ci_plugins.dockerfile.mounts import parse_mount
from ci_plugins.dockerfile.parser import Node, parse_node
from ci_plugins.dockerfile.words import (
    BLANKS,
    Word,
    blank_separated,
    json_array,
    quoted_words,
    scalar_text,
    split_command,
)
from ci_plugins.errors import DockerfileError, ExpansionError, Location, UnknownInstruction

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9\-_.]*")
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_NETWORKS: Final = ("default", "none", "host")
_SECURITY: Final = ("insecure", "sandbox")
_NOT_IN_ONBUILD: Final = ("ONBUILD", "FROM", "MAINTAINER")
_MAX_RETRIES: Final = 2**31 - 1


def parse_instruction(source: str, location: Location, escape: str = "\\") -> typed.Instruction:
    """A single instruction given as text, e.g. a trigger of a base image's ONBUILD. Raises DockerfileError."""
    return convert(parse_node(source, location, escape))


def convert(node: Node) -> typed.Instruction:
    """Raises DockerfileSyntaxError, UnknownInstruction."""
    if node.name not in _CONVERTERS:
        raise _unknown(node)
    return _CONVERTERS[node.name](node)


def _unknown(node: Node) -> DockerfileError:
    import difflib

    near = difflib.get_close_matches(node.name, _CONVERTERS, n=1)
    return node.error(
        f"unknown instruction {node.keyword.text!r}",
        kind=UnknownInstruction,
        remedy=f"Did you mean {near[0]}?" if near else f"Known are {', '.join(sorted(_CONVERTERS))}.",
    )


def _place(node: Node) -> dict[str, Any]:
    return {"source": node.source, "location": node.location, "end_line": node.end_line, "escape": node.escape}


# --- arguments ------------------------------------------------------------------------------------------------------


def _strings(node: Node, rest: Word) -> tuple[str, ...] | None:
    """A JSON array of strings; None where it is not JSON. Raises DockerfileSyntaxError for an array of others."""
    array = json_array(rest.text)
    if array is None:
        return None
    if not all(isinstance(item, str) for item in array):
        raise node.error("a JSON array here may hold strings only", rest)
    return tuple(scalar_text(str(item)) for item in array)


def _command(node: Node, rest: Word) -> typed.Command:
    strings = _strings(node, rest)
    if strings is not None:
        return typed.ExecForm(strings)
    inline = len(node.heredocs) == 1 and is_opening(rest.text)
    return typed.ShellForm(rest.text, node.heredocs, inline)


def _argument(node: Node, what: str) -> str:
    if not node.rest.text:
        raise node.error(f"{node.name} needs {what}")
    return node.rest.text


def _words(node: Node, what: str) -> tuple[Word, ...]:
    """Words between blanks, or the items of a JSON array (placed where it begins)."""
    strings = _strings(node, node.rest)
    words = blank_separated(node.rest) if strings is None else tuple(Word(item, node.rest.offset) for item in strings)
    if not words:
        raise node.error(f"{node.name} needs {what}")
    return words


def _pairs(node: Node) -> typed.Pairs:
    """`a=1 b="2 3"`, or the old form `a 1`."""
    words = quoted_words(node.rest, node.escape)
    if not words:
        raise node.error(f"{node.name} needs name=value")
    if "=" not in words[0].text:
        parts = BLANKS.split(node.rest.text, maxsplit=1)
        if len(parts) < 2:
            raise node.error(f"{node.name} {parts[0]} has no value", words[0], remedy=f"Write {parts[0]}=VALUE.")
        return ((parts[0], parts[1]),)
    return tuple(_pair(node, word) for word in words)


def _pair(node: Node, word: Word) -> tuple[str, str]:
    name, equals, value = word.text.partition("=")
    if not equals:
        raise node.error(
            f"{node.name}: {word.text!r} is not name=value", word, remedy="Put quotes around a value that has spaces."
        )
    if not name:
        raise node.error(f"{node.name}: {word.text!r} has no name", word)
    return name, value


# --- instructions ---------------------------------------------------------------------------------------------------


def _from(node: Node) -> typed.From:
    flags = take_flags(node, {"platform": "text"})
    words = blank_separated(node.rest)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].text.lower() != "as"):
        raise node.error("FROM takes an image, or: image AS name", words[1] if len(words) > 1 else None)
    alias = words[2].text.lower() if len(words) == 3 else ""
    if alias and not _STAGE_NAME.fullmatch(alias):
        raise node.error(
            f"{words[2].text!r} cannot name a stage",
            words[2],
            remedy="Begin it with a letter; letters, digits, '-', '_' and '.' may follow.",
        )
    return typed.From(image=words[0].text, alias=alias, platform=flags.text("platform"), **_place(node))


def _run(node: Node) -> typed.Run:
    flags = take_flags(node, {"mount": "list", "network": "text", "security": "text", "device": "list"})
    for name, choices in (("network", _NETWORKS), ("security", _SECURITY)):
        if name in flags.given and flags.text(name) not in choices:
            raise node.error(
                f"--{name} cannot be {flags.text(name)!r}",
                flags.given[name],
                remedy=f"It is one of {', '.join(choices)}.",
            )
    command = _command(node, node.rest)
    if command == typed.ExecForm(()):
        raise node.error("RUN needs a command")
    return typed.Run(
        command=command,
        mounts=tuple(parse_mount(node, word) for word in flags.list("mount")),
        network=flags.text("network"),
        security=flags.text("security"),
        devices=tuple(word.text for word in flags.list("device")),
        **_place(node),
    )


_COPY_FLAGS: Final[Mapping[str, Kind]] = {
    "from": "text", "chown": "text", "chmod": "text", "link": "switch", "parents": "switch", "exclude": "list",
}  # fmt: skip
_ADD_FLAGS: Final[Mapping[str, Kind]] = {
    "chown": "text", "chmod": "text", "link": "switch", "exclude": "list", "checksum": "text",
    "keep-git-dir": "switch", "unpack": "switch",
}  # fmt: skip


def _files(node: Node, flags: Flags) -> dict[str, Any]:
    """What COPY and ADD have in common."""
    words = _words(node, "a source and a destination")
    if len(words) < 2:
        raise node.error(
            f"{node.name} needs a source and a destination, found only {words[0].text!r}",
            words[0],
            remedy="Write the destination last; '.' is the working directory.",
        )
    if is_opening(words[-1].text) and node.heredocs:
        raise node.error(f"{node.name} cannot have a heredoc as its destination", words[-1])
    documents = {heredoc.name: heredoc for heredoc in node.heredocs}
    sources, heredocs = [], []
    for word in words[:-1]:
        if document := _document(word, documents):
            heredocs.append(document)
        else:
            sources.append(word.text)
    return {
        "sources": tuple(sources),
        "heredocs": tuple(heredocs),
        "destination": words[-1].text,
        "chown": flags.text("chown"),
        "chmod": flags.text("chmod"),
        "link": bool(flags.switch("link")),
        "exclude": tuple(word.text for word in flags.list("exclude")),
    }


def _document(word: Word, documents: Mapping[str, typed.Heredoc]) -> typed.Heredoc | None:
    try:
        opening = parse_opening(word.text)
    except ExpansionError:
        return None
    return documents.get(opening.name) if opening else None


def _copy(node: Node) -> typed.Copy:
    flags = take_flags(node, _COPY_FLAGS)
    fields = _files(node, flags)
    if re.search(r"\$.", flags.text("from")):
        raise node.error(
            "COPY --from cannot hold a variable",
            flags.given["from"],
            remedy="Name a stage for it: FROM image:$TAG AS name, then COPY --from=name.",
        )
    for word in _words(node, "a source")[:-1]:
        if _URL.match(word.text):
            raise node.error(f"COPY cannot fetch {word.text}", word, remedy="Use ADD for it.")
    return typed.Copy(
        from_=flags.text("from"), parents=bool(flags.switch("parents")), **fields, **_place(node)
    )  # fmt: skip


def _add(node: Node) -> typed.Add:
    flags = take_flags(node, _ADD_FLAGS)
    return typed.Add(
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switch("unpack"),
        **_files(node, flags),
        **_place(node),
    )


def _env(node: Node) -> typed.Env:
    take_flags(node, {})
    return typed.Env(pairs=_pairs(node), **_place(node))


def _label(node: Node) -> typed.Label:
    take_flags(node, {})
    return typed.Label(pairs=_pairs(node), **_place(node))


def _arg(node: Node) -> typed.Arg:
    take_flags(node, {})
    words = quoted_words(node.rest, node.escape)
    if not words:
        raise node.error("ARG needs a name")
    items = tuple(_pair(node, word) if "=" in word.text else (word.text, None) for word in words)
    return typed.Arg(items=items, **_place(node))


def _workdir(node: Node) -> typed.Workdir:
    take_flags(node, {})
    return typed.Workdir(path=_argument(node, "a path"), **_place(node))


def _user(node: Node) -> typed.User:
    take_flags(node, {})
    return typed.User(user=_argument(node, "a user"), **_place(node))


def _stopsignal(node: Node) -> typed.StopSignal:
    take_flags(node, {})
    return typed.StopSignal(signal=_argument(node, "a signal"), **_place(node))


def _maintainer(node: Node) -> typed.Maintainer:
    take_flags(node, {})
    return typed.Maintainer(author=_argument(node, "a name"), **_place(node))


def _expose(node: Node) -> typed.Expose:
    take_flags(node, {})
    words = blank_separated(node.rest)
    if not words:
        raise node.error("EXPOSE needs a port")
    return typed.Expose(ports=tuple(word.text for word in words), **_place(node))


def _volume(node: Node) -> typed.Volume:
    take_flags(node, {})
    paths = tuple(word.text.strip() for word in _words(node, "a path"))
    if not all(paths):
        raise node.error("VOLUME: a path is empty", node.rest)
    return typed.Volume(paths=paths, **_place(node))


def _cmd(node: Node) -> typed.Cmd:
    take_flags(node, {})
    return typed.Cmd(command=_command(node, node.rest), **_place(node))


def _entrypoint(node: Node) -> typed.Entrypoint:
    take_flags(node, {})
    return typed.Entrypoint(command=_command(node, node.rest), **_place(node))


def _shell(node: Node) -> typed.Shell:
    take_flags(node, {})
    argv = _strings(node, node.rest)
    if not argv:
        raise node.error(
            "SHELL takes a JSON array with at least one string", node.rest, remedy='Write SHELL ["/bin/sh", "-c"].'
        )
    return typed.Shell(argv=argv, **_place(node))


# --- HEALTHCHECK, ONBUILD -------------------------------------------------------------------------------------------

_HEALTH_FLAGS: Final = ("interval", "timeout", "start-period", "start-interval", "retries")


def _healthcheck(node: Node) -> typed.Healthcheck:
    flags = take_flags(node, dict.fromkeys(_HEALTH_FLAGS, "text"))
    kind, rest = split_command(node.rest.text, node.rest.offset)
    if kind.text.upper() == "NONE":
        if rest.text:
            raise node.error("HEALTHCHECK NONE takes nothing more", rest)
        return typed.Healthcheck(command=None, **_place(node))
    if kind.text.upper() != "CMD":
        raise node.error("HEALTHCHECK is followed by CMD or NONE", node.rest)
    command = _command(node, rest)
    if command in (typed.ExecForm(()), typed.ShellForm("")):
        raise node.error("HEALTHCHECK CMD needs a command", node.rest)
    return typed.Healthcheck(
        command=command,
        interval=_duration(node, flags, "interval"),
        timeout=_duration(node, flags, "timeout"),
        start_period=_duration(node, flags, "start-period"),
        start_interval=_duration(node, flags, "start-interval"),
        retries=_retries(node, flags),
        **_place(node),
    )


def _duration(node: Node, flags: Flags, name: str) -> int:
    if not flags.text(name):
        return 0
    try:
        nanoseconds = parse_duration(flags.text(name))
    except ValueError as error:
        raise node.error(f"--{name}: {error}", flags.given[name], remedy="Write it like 1m30s or 500ms.") from error
    if nanoseconds != 0 and nanoseconds < 1_000_000:
        raise node.error(f"--{name} is less than 1ms", flags.given[name])
    return nanoseconds


def _retries(node: Node, flags: Flags) -> int:
    text = flags.text("retries")
    if not text:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or int(text) > _MAX_RETRIES:
        raise node.error(f"--retries is a whole number from 0 on, not {text!r}", flags.given["retries"])
    return int(text)


def _onbuild(node: Node) -> typed.Onbuild:
    take_flags(node, {})
    text = _argument(node, "an instruction")
    nested = node.nested()
    if nested.name in _NOT_IN_ONBUILD:
        raise node.error(f"{nested.name} cannot be triggered by ONBUILD", nested.keyword)
    documents = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return typed.Onbuild(text=text + documents, instruction=convert(nested), **_place(node))


_CONVERTERS: Final[Mapping[str, Callable[[Node], typed.Instruction]]] = {
    "ADD": _add, "ARG": _arg, "CMD": _cmd, "COPY": _copy, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose,
    "FROM": _from, "HEALTHCHECK": _healthcheck, "LABEL": _label, "MAINTAINER": _maintainer, "ONBUILD": _onbuild,
    "RUN": _run, "SHELL": _shell, "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
}  # fmt: skip

KEYWORDS: Final = tuple(_CONVERTERS)
