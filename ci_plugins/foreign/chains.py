"""An image's config and manifest as a chain of layers, each with the step that wrote it and the state it ran in.

The history does not say what a RUN saw: environment, user and directory come from the entries before it and, for what
no entry changes, from the finished config. Images whose history does not fit their layers are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.dockerfile.predefined import DEFAULT_PATH
from ci_plugins.foreign.history import UNKNOWN, WRITES, Command, Kind, normalise
from ci_plugins.oci import Descriptor, Digest, History, ImageConfig, Platform, media
from ci_plugins.plan.image import absolute
from ci_plugins.plan.keys import fields_digest
from ci_plugins.plan.steps import CopyWork, RunWork, Step

#: Raised whenever the same history makes other keys than before.
_VERSION = 1
#: mounts whose contents are no input of a step
_NO_INPUT = ("cache", "tmpfs", "secret", "ssh")
_ASSIGNED = re.compile(r"(?:^|\s)([A-Za-z_][A-Za-z0-9_.-]*)=")
#: What a builder may have replaced or taken away: such a value is not known.
_UNCERTAIN = re.compile(r"[$\"'\\]")


class UnfitHistory(ValueError):
    """Why nothing can be said about an image's layers, as a clause."""


@dataclass(frozen=True, slots=True)
class RunState:
    """What of the image config a RUN sees."""

    environment: Mapping[str, str]
    user: str
    working_dir: str


@dataclass(frozen=True, slots=True)
class ForeignLayer:
    """A layer that one step wrote on `below`, the ChainID of the layers under it (None: on nothing)."""

    key: Digest
    chain: Digest
    below: Digest | None
    command: Command
    descriptor: Descriptor
    diff_id: Digest
    created: str


def foreign_key(platform: Platform, below: Digest | None, command: Command, state: RunState | None = None) -> Digest:
    """What the layers of equal steps on equal chains are found by. Of a COPY, ADD or WORKDIR only its kind counts, for
    their layers are compared by content; of a RUN the whole command with ARG values and shell, and its `state`."""
    if command.kind is not Kind.RUN:
        return fields_digest("foreign", _VERSION, str(platform), below, command.kind.value)
    if state is None:
        raise ValueError("a RUN is known by the state it runs in too")
    seen = (dict(state.environment), state.user, state.working_dir)
    return fields_digest("foreign", _VERSION, str(platform), below, command.kind.value, command.text, seen)


def step_foreign_key(platform: Platform, below: Digest | None, step: Step) -> Digest | None:
    """The same for a step of ours on `below`; None for one that no foreign layer can stand for: a RUN whose inputs no
    history tells (files of a bind mount, a heredoc run as a file), a COPY from another stage or image."""
    if isinstance(step.work, CopyWork) and step.work.origin is not None:
        return None
    if not isinstance(step.work, RunWork):
        command = normalise(History(step.created_by, comment="ci-plugins"))
        return foreign_key(platform, below, command) if command.kind in (Kind.COPY, Kind.WORKDIR) else None
    mounts = getattr(step.instruction, "mounts", ())
    if step.work.files or any(mount.type not in _NO_INPUT for mount in mounts):
        return None
    command = normalise(History(step.created_by, comment="ci-plugins"))
    state = RunState(step.before.env(), step.before.user, step.before.working_dir)
    return foreign_key(platform, below, command, state) if command.kind is Kind.RUN else None


def foreign_layers(config: ImageConfig, descriptors: Sequence[Descriptor]) -> list[ForeignLayer]:
    """The layers that can be found again, lowest first. Raises UnfitHistory."""
    filled = [entry for entry in config.history if not entry.empty_layer]
    if not config.history:
        raise UnfitHistory("its config has no history")
    if not len(filled) == len(config.diff_ids) == len(descriptors):
        raise UnfitHistory(
            f"its history tells of {len(filled)} layers, its config of {len(config.diff_ids)}, "
            f"its manifest of {len(descriptors)}"
        )
    for descriptor in descriptors:
        if descriptor.media_type not in media.LAYER_COMPRESSION or descriptor.urls:
            raise UnfitHistory(f"it has a layer of type {descriptor.media_type}")
    replay = _Replay(config)
    chains = config.chain_ids()
    found: list[ForeignLayer] = []
    number = 0
    for position, entry in enumerate(config.history):
        if entry.empty_layer:
            continue
        below = chains[number - 1] if number else None
        command = replay.command(position)
        state = replay.state(position) if command.kind is Kind.RUN else None
        if command.kind in (Kind.COPY, Kind.WORKDIR) or state is not None:
            key = foreign_key(config.platform, below, command, state)
            layer = descriptors[number], config.diff_ids[number]
            found.append(ForeignLayer(key, chains[number], below, command, *layer, entry.created))
        number += 1
    return found


class _Replay:
    """The history read entry by entry."""

    def __init__(self, config: ImageConfig) -> None:
        self._config = config
        self._history = config.history
        self._commands: list[Command] = []
        shells = [entry for entry in self._history if normalise(entry).kind is Kind.SHELL]
        shell = ("/bin/sh", "-c") if shells else config.shell()
        args_declared = False
        for entry in self._history:
            command = normalise(entry, shell, args_declared=args_declared)
            if command.kind is Kind.SHELL:
                shell = tuple(_words(command.text))
            args_declared = args_declared or (command.kind is Kind.ARG and entry.author == "kaniko")
            self._commands.append(command)

    def command(self, position: int) -> Command:
        """Of an entry with a layer. UNKNOWN if other steps may have written to the layer too: builders that make one
        layer of several steps mark all but the last as empty."""
        for before in range(position - 1, -1, -1):
            if not self._history[before].empty_layer:
                break
            # an empty WORKDIR is told by the state: whoever reuses the layer has the same one
            if self._commands[before].kind in WRITES - {Kind.WORKDIR}:
                return UNKNOWN
        return self._commands[position]

    def state(self, position: int) -> RunState | None:
        """What a RUN at this place saw; None if that cannot be told."""
        environment = self._environment(position)
        user = self._last(Kind.USER, position, self._config.user)
        directory = self._working_dir(position)
        if environment is None or user is None or directory is None:
            return None
        return RunState(environment, user, directory)

    def _last(self, kind: Kind, position: int, final: str) -> str | None:
        before = [command.text for command in self._commands[:position] if command.kind is kind]
        if before:
            return None if _UNCERTAIN.search(before[-1]) else before[-1]
        return "" if any(command.kind is kind for command in self._commands[position:]) else final

    def _working_dir(self, position: int) -> str | None:
        last = self._last(Kind.WORKDIR, position, self._config.working_dir)
        if not last:
            return None if last is None else "/"
        directory = "/"
        for command in self._commands[:position]:
            if command.kind is Kind.WORKDIR:
                if _UNCERTAIN.search(command.text):
                    return None
                directory = absolute(directory, command.text)
        return directory if any(command.kind is Kind.WORKDIR for command in self._commands[:position]) else last

    def _environment(self, position: int) -> Mapping[str, str] | None:
        """The finished environment, but for names that a later entry sets: those have the value of the last entry
        before, or none."""
        later = {name for text in self._texts(position, None) for name in _assignments(text)}
        before: dict[str, str] = {}
        for text in self._texts(0, position):
            before.update(_assignments(text))
        environment: dict[str, str] = {}
        for name, value in self._config.env().items():
            if name not in later:
                environment[name] = value
            elif name in before:
                if _UNCERTAIN.search(before[name]):
                    return None
                environment[name] = before[name]
            elif name == "PATH":
                environment[name] = DEFAULT_PATH
        return environment

    def _texts(self, first: int, end: int | None) -> list[str]:
        return [command.text for command in self._commands[first:end] if command.kind is Kind.ENV]


def _assignments(text: str) -> dict[str, str]:
    """NAME → value of an ENV entry. Builders write values without their quotes, so a value with spaces and something
    like an assignment in it gives a name too many, and one that the finished config does not have."""
    matches = list(_ASSIGNED.finditer(text))
    if not matches or matches[0].start() > 0:
        name, _, value = text.partition(" ")
        return {name: value}
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return {match[1]: text[match.end() : end].strip() for match, end in zip(matches, ends, strict=True)}


def _words(text: str) -> list[str]:
    """The words of `["a", "b"]` or, as classic builders write it, `[a b]`."""
    try:
        words = json.loads(text)
        return [str(word) for word in words] if isinstance(words, list) else []
    except (ValueError, RecursionError):
        return text.strip("[]").split()
