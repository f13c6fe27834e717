"""What an image's history says was done, in one spelling whoever built it.

    classic builder   /bin/sh -c make                   |1 V=2 /bin/sh -c make          /bin/sh -c #(nop)  ENV A=1
    BuildKit          RUN /bin/sh -c make # buildkit    RUN |1 V=2 /bin/sh -c make …    ENV A=1
    buildah, podman   /bin/sh -c make                   |1 V=2 /bin/sh -c make          /bin/sh -c #(nop) ENV A=1
    kaniko            RUN make                          RUN make                        ENV A=1

The common spelling is BuildKit's, without its mark. What cannot be read for certain becomes UNKNOWN and is never
reused: a wrong guess would be a wrong image.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ci_plugins.oci import History


class Kind(enum.StrEnum):
    RUN = "RUN"
    #: COPY and ADD: what they write is compared, not how they are written
    COPY = "COPY"
    WORKDIR = "WORKDIR"
    ENV = "ENV"
    USER = "USER"
    SHELL = "SHELL"
    ARG = "ARG"
    #: changes the config, and nothing that a RUN sees
    CONFIG = "CONFIG"
    UNKNOWN = "UNKNOWN"


#: Kinds that may change files.
WRITES = frozenset({Kind.RUN, Kind.COPY, Kind.WORKDIR, Kind.UNKNOWN})

_KINDS = {
    "COPY": Kind.COPY,
    "ADD": Kind.COPY,
    "WORKDIR": Kind.WORKDIR,
    "ENV": Kind.ENV,
    "USER": Kind.USER,
    "SHELL": Kind.SHELL,
    "ARG": Kind.ARG,
    **dict.fromkeys(
        ("CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "ONBUILD", "MAINTAINER"),
        Kind.CONFIG,
    ),
}
_BUILDKIT_MARK = "# buildkit"
_NOP = re.compile(r"/bin/sh -c #\(nop\)\s+")
_INSTRUCTION = re.compile(r"([A-Z]+)\s+(.*)", re.DOTALL)
_ARGS = re.compile(r"\|([0-9]{1,4}) ")
_NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_DEFAULT_SHELL = "/bin/sh -c "
#: Where BuildKit puts a heredoc that is run as a file: the history names it and leaves out what it holds.
_SCRIPTS = "/dev/pipes/"


@dataclass(frozen=True, slots=True)
class Command:
    """`text` is what comes after the instruction's name; of a RUN `[|N NAME=VALUE … ]ARGV`, ARGs sorted by name."""

    kind: Kind
    text: str = ""


UNKNOWN = Command(Kind.UNKNOWN)


def normalise(entry: History, shell: Sequence[str] = ("/bin/sh", "-c"), *, args_declared: bool = False) -> Command:
    """One entry. `shell` is the SHELL in force, `args_declared` whether an ARG precedes: kaniko and buildah write
    neither into the entry of a RUN as they should."""
    text = entry.created_by.strip()
    if entry.author == "kaniko":
        return _kaniko(text, shell, args_declared)
    by_buildkit = text.endswith(_BUILDKIT_MARK) or entry.comment.startswith(("buildkit", "ci-plugins"))
    if by_buildkit:
        return _buildkit(text.removesuffix(_BUILDKIT_MARK).strip())
    if nop := _NOP.match(text):
        return _instruction(text[nop.end() :])
    return _classic(text, shell, by_buildah=entry.comment.startswith("FROM "))


def _buildkit(text: str) -> Command:
    if text.startswith("RUN "):
        return _run(text[4:])
    return _instruction(text)


def _kaniko(text: str, shell: Sequence[str], args_declared: bool) -> Command:
    if not text.startswith("RUN "):
        return _instruction(text)
    rest = text[4:].strip()
    if args_declared or rest.startswith("--") or "<<" in rest:
        return UNKNOWN  # the entry holds neither the ARGs' values nor a heredoc
    words = _exec_form(rest)
    return _run(" ".join(words) if words else " ".join((*shell, rest)))


def _classic(text: str, shell: Sequence[str], *, by_buildah: bool) -> Command:
    """A RUN of the classic builder or of buildah: both write nothing before it."""
    args = _ARGS.match(text)
    head, rest = _split_args(text, int(args[1])) if args else ("", text)
    if not (args or rest.startswith("/")) or "<<" in rest:
        return UNKNOWN  # perhaps not a command of a Dockerfile, or one whose heredoc the entry leaves out
    if rest.startswith(_DEFAULT_SHELL):
        script = rest[len(_DEFAULT_SHELL) :]
        if words := _exec_form(script):
            rest = " ".join(words)  # buildah
        elif script.startswith(("--", "#")):
            return UNKNOWN
        elif tuple(shell) != ("/bin/sh", "-c"):
            if not by_buildah:
                return UNKNOWN
            rest = " ".join((*shell, script))  # buildah writes /bin/sh whatever SHELL says
    return _run(f"{head} {rest}" if head else rest)


def _run(text: str) -> Command:
    text = text.strip()
    args = _ARGS.match(text)
    head, command = _split_args(text, int(args[1])) if args else ("", text)
    if not command or command.startswith((_SCRIPTS, "--")):
        return UNKNOWN
    return Command(Kind.RUN, f"{head} {command}" if head else command)


def _split_args(text: str, count: int) -> tuple[str, str]:
    """`|N A=1 B=2 command` → (`|N A=1 B=2` sorted, `command`). Values that hold spaces are left where they stand: the
    head is then only the mark."""
    mark, *words = text.split(" ")
    if not count:
        return "", " ".join(words)
    args = words[:count]
    if all(_NAMED.match(word) for word in args):
        return " ".join((mark, *sorted(args))), " ".join(words[count:])
    at = next((number for number, word in enumerate(words) if number >= count and word.startswith("/")), len(words))
    return " ".join((mark, *words[:at])), " ".join(words[at:])


def _instruction(text: str) -> Command:
    match = _INSTRUCTION.match(text.strip())
    kind = _KINDS.get(match[1]) if match else None
    return Command(kind, match[2].strip()) if match and kind else UNKNOWN


def _exec_form(text: str) -> list[str]:
    """The words of a JSON array of strings; none for what is not one."""
    if not text.startswith("["):
        return []
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else []
