"""`RUN --mount=type=…,target=…`: read and checked as BuildKit does."""

from __future__ import annotations

import csv
import re
from typing import Final

from ci_plugins.dockerfile.instructions import Mount
from ci_plugins.dockerfile.parser import Node
from ci_plugins.dockerfile.words import Word

_TYPES: Final = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING: Final = ("shared", "private", "locked")
_ALIASES: Final = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_WITHOUT_VALUE: Final = ("readonly", "readwrite", "required")
_ONLY_FOR: Final = {
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "sharing": ("cache",),
    "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"),
    "gid": ("cache", "secret", "ssh"),
    "env": ("secret",),
}
_KNOWN: Final = ("type", "from", "source", "target", "readonly", "readwrite", "id", *_ONLY_FOR)
_VALUES: Final = {
    "readonly": re.compile("1|t|true|0|f|false", re.IGNORECASE),
    "readwrite": re.compile("1|t|true|0|f|false", re.IGNORECASE),
    "required": re.compile("1|t|true|0|f|false", re.IGNORECASE),
    "mode": re.compile("[0-7]{1,11}"),
    "uid": re.compile("[0-9]{1,10}"),
    "gid": re.compile("[0-9]{1,10}"),
    "size": re.compile(r"[0-9]+(\.[0-9]*)? ?([kmgtp]i?b?|b)?", re.IGNORECASE),
    "sharing": re.compile("|".join(_SHARING), re.IGNORECASE),
    "type": re.compile("|".join(_TYPES), re.IGNORECASE),
}


def parse_mount(node: Node, word: Word) -> Mount:
    """`word` is the flag's value. What holds a variable is not judged. Raises DockerfileSyntaxError at the flag."""
    options = tuple(_option(node, word, item) for item in _fields(node, word))
    mount = Mount(options)
    if "$" not in word.text:
        _check(node, word, mount)
    return mount


def _fields(node: Node, word: Word) -> list[str]:
    try:
        rows = list(csv.reader([word.text], strict=True))
    except csv.Error as error:
        raise node.error(f"--mount cannot be read: {error}", word) from error
    if len(rows) != 1 or not rows[0]:
        raise node.error("--mount has no options", word, remedy="Write it as --mount=type=TYPE,target=PATH.")
    return rows[0]


def _option(node: Node, word: Word, item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    name = _ALIASES.get(key.lower(), key.lower())
    if name not in _KNOWN:
        raise node.error(f"--mount has no option {key!r}", word, remedy=f"It takes {', '.join(_KNOWN)}.")
    if not equals:
        if name not in _WITHOUT_VALUE:
            raise node.error(f"the option {name} of --mount has no value", word, remedy=f"Write it as {name}=VALUE.")
        value = "true"
    if name == "from" and re.search(r"\$.", value):
        raise node.error(
            "the option from of --mount cannot hold a variable", word, remedy="Name a stage for it: FROM … AS name."
        )
    if "$" not in value and name in _VALUES and not _VALUES[name].fullmatch(value):
        raise node.error(f"the option {name} of --mount cannot be {value!r}", word, remedy=_remedy(name))
    return name, value


def _remedy(name: str) -> str:
    choices = {"type": _TYPES, "sharing": _SHARING}.get(name)
    return f"It is one of {', '.join(choices)}." if choices else ""


def _check(node: Node, word: Word, mount: Mount) -> None:
    """What fits the type. Raises DockerfileSyntaxError."""
    for name, _ in mount.options:
        if mount.type not in _ONLY_FOR.get(name, _TYPES):
            raise node.error(f"the option {name} does not fit a mount of type {mount.type}", word)
    if mount.type == "secret":
        if mount.get("from"):
            raise node.error("the option from does not fit a mount of type secret", word)
        if not (mount.get("source") or mount.get("target") or mount.get("id") or mount.get("env")):
            raise node.error("a mount of type secret needs an id or a target", word)
        if mount.get("source") and mount.get("id"):
            raise node.error("a mount of type secret has both an id and a source: they are the same", word)
