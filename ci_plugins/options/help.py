"""The text of --help, from the declarations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ci_plugins.options.commands import COMMANDS
from ci_plugins.options.declared import options_of
from ci_plugins.options.model import FLAG, Option, Shape

_COLUMN = 30


def help_text(topic: str = "", width: int = 100) -> str:
    """Help for one command or a group of them, or the overview for an empty topic; lines no longer than `width` where
    words allow."""
    return _command(topic, width) if topic in COMMANDS else _overview(topic, width)


def default_text(option: Option) -> str:
    """What people read as the default; empty where there is none."""
    if told := option.default_text or option.detected:
        return told
    if option.shape is not Shape.ONE or option.default is None or option.kind is FLAG:
        return ""
    return option.kind.format(option.default)


def metavar(option: Option) -> str:
    return "NAME=VALUE" if option.shape is Shape.MAP else option.kind.metavar


def groups(options: Iterable[Option]) -> dict[str, list[Option]]:
    """By group, in the order of declaration."""
    grouped: dict[str, list[Option]] = {}
    for option in options:
        grouped.setdefault(option.group, []).append(option)
    return grouped


def _overview(group: str, width: int) -> str:
    """Of all commands, or of those of a group: `cache`."""
    shown = {name: sentence for name, sentence in COMMANDS.items() if name.startswith(f"{group} " if group else "")}
    if not group:
        shown |= {"version": "Print the version.", "help": "Print this, or the options of a command."}
    column = max(len(name) for name in shown) + 4
    lines = [f"Usage: ci-plugins {group or 'COMMAND'} {'COMMAND ' if group else ''}[OPTIONS]", "", "Commands:"]
    for name, sentence in shown.items():
        wrapped = textwrap.wrap(sentence, max(width - column, 24))
        lines.append(f"  {name:<{column - 2}}{wrapped[0]}")
        lines += [" " * column + line for line in wrapped[1:]]
    lines += ["", "`ci-plugins COMMAND --help` lists the options of a command.", ""]
    return "\n".join(lines)


def _command(topic: str, width: int) -> str:
    options = options_of(topic)
    places = "".join(
        f" [{option.flag}{'…' if option.shape is Shape.LIST else ''}]" for option in options if option.positional
    )
    lines = [f"Usage: ci-plugins {topic} [OPTIONS]{places}", "", *textwrap.wrap(COMMANDS[topic], width)]
    for group, members in groups(options).items():
        lines += ["", f"{group}:"]
        for option in members:
            lines += _entry(option, width)
    lines += ["", "Every option can also be set by a variable (--no-cache: CI_PLUGINS_NO_CACHE) or in ci-plugins.yml"]
    lines += ["(no_cache: true). A flag is stronger than a variable, a variable stronger than the file.", ""]
    return "\n".join(lines)


def _entry(option: Option, width: int) -> list[str]:
    name = option.flag if option.positional else f"{option.flag} {metavar(option)}".rstrip()
    short = f"-{option.short}, " if option.short else "" if option.positional else "    "
    head = f"  {short}{name}"
    notes = ["may be given more than once"] if option.shape is not Shape.ONE else []
    default = default_text(option)
    if default:
        notes.append(f"default: {default}")
    text = option.help + (f" ({'; '.join(notes)})" if notes else "")
    wrapped = textwrap.wrap(text, max(width - _COLUMN, 24), break_long_words=False, break_on_hyphens=False)
    body = [" " * _COLUMN + line for line in wrapped]
    if len(head) <= _COLUMN - 2:
        body[0] = f"{head:<{_COLUMN}}{wrapped[0]}"
        return body
    return [head, *body]
