"""Third pass: typed instructions → stages of a build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_plugins.dockerfile.convert import convert
from ci_plugins.dockerfile.excerpt import excerpt
from ci_plugins.dockerfile.instructions import Arg, Copy, From, Instruction, Onbuild, Run
from ci_plugins.dockerfile.parser import parse_nodes
from ci_plugins.errors import (
    DockerfileEmpty,
    DockerfileError,
    DockerfileNotFound,
    DockerfileSyntaxError,
    Location,
    UndefinedStage,
)

_NUMBER: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and the instructions up to the next. `name` is in lower case, "" where it has none."""

    index: int
    name: str
    from_: From
    instructions: tuple[Instruction, ...]

    def __str__(self) -> str:
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`directives` are the parser directives (syntax, escape, check), `global_args` the ARGs before the first FROM."""

    path: str
    text: str
    escape: str
    directives: Mapping[str, str]
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]

    def stage(self, name: str, *, before: int | None = None) -> Stage | None:
        """By name (in any case) or number; only among the stages before number `before` where that is given. Of several
        stages of one name it is the last, as in BuildKit."""
        candidates = self.stages[:before]
        if _NUMBER.fullmatch(name):
            return next((stage for stage in candidates if stage.index == int(name)), None)
        return next((stage for stage in reversed(candidates) if stage.name and stage.name == name.lower()), None)

    def target(self, name: str = "") -> Stage:
        """The stage to build; the last one where no name is given. Raises UndefinedStage."""
        if not name:
            return self.stages[-1]
        if stage := self.stage(name):
            return stage
        raise UndefinedStage(
            f"there is no stage {name!r} in {self.path}", where=Location(self.path, 1), remedy=_known(self.stages)
        )

    def excerpt(self, location: Location) -> str:
        """The lines around a place in this file."""
        return excerpt(self.text, location)


def load_dockerfile(path: str | Path, *, shown_as: str = "") -> Dockerfile:
    """Read and parse a file. Raises DockerfileNotFound and what parse_dockerfile raises."""
    name = shown_as or str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DockerfileNotFound(f"cannot read the Dockerfile {name}: {error.strerror or error}") from error
    return parse_dockerfile(raw.decode("utf-8", "surrogateescape"), name)


def parse_dockerfile(text: str, path: str = "Dockerfile") -> Dockerfile:
    """Raises DockerfileError: DockerfileEmpty, DockerfileSyntaxError, UnknownInstruction, UndefinedStage."""
    parsed = parse_nodes(text, path)
    instructions = [convert(node) for node in parsed.nodes]
    starts = [index for index, item in enumerate(instructions) if isinstance(item, From)]
    if not starts:
        what = "has no FROM" if instructions else "holds no instruction"
        raise DockerfileEmpty(f"the Dockerfile {what}", where=Location(path, 1))
    shown = text.removeprefix("\ufeff").encode("utf-8", "replace").decode()
    dockerfile = Dockerfile(
        path=path,
        text=shown,
        escape=parsed.escape,
        directives=parsed.directives,
        global_args=_global_args(instructions[: starts[0]], shown),
        stages=tuple(
            _stage(index, instructions[start:end])
            for index, (start, end) in enumerate(zip(starts, [*starts[1:], None], strict=True))
        ),
    )
    _check_references(dockerfile)
    return dockerfile


def stage_references(instruction: Instruction) -> tuple[str, ...]:
    """What an instruction takes from: stages, or images where no earlier stage has the name."""
    match instruction:
        case From(image=image):
            return (image,)
        case Copy(from_=name) if name:
            return (name,)
        case Run(mounts=mounts):
            return tuple(name for mount in mounts if (name := mount.get("from")))
        case Onbuild(instruction=inner):
            return stage_references(inner)
        case _:
            return ()


def _stage(index: int, instructions: list[Instruction]) -> Stage:
    head = instructions[0]
    assert isinstance(head, From)
    return Stage(index, head.alias, head, tuple(instructions[1:]))


def _global_args(instructions: list[Instruction], text: str) -> tuple[Arg, ...]:
    for item in instructions:
        if not isinstance(item, Arg):
            raise DockerfileSyntaxError(
                f"{item.name} stands before the first FROM",
                where=item.location,
                excerpt=excerpt(text, item.location),
                remedy="Only ARG can stand there: move it below a FROM.",
            )
    return tuple(item for item in instructions if isinstance(item, Arg))


def _check_references(dockerfile: Dockerfile) -> None:
    """A number must be that of an earlier stage, and a name not that of the stage itself or a later one.

    FROM is not judged: what it names may hold variables, and a name no earlier stage has is an image.
    """
    for stage in dockerfile.stages:
        for item in stage.instructions:
            for name in () if isinstance(item, Onbuild) else stage_references(item):
                if dockerfile.stage(name, before=stage.index):
                    continue
                earlier = _known(dockerfile.stages[: stage.index])
                if found := dockerfile.stage(name):
                    what = "the stage it is in" if found is stage else "a later stage"
                    message = f"{item.name} takes from {name!r}, which is {what}"
                    raise _error(dockerfile, UndefinedStage, message, item, earlier)
                if _NUMBER.fullmatch(name):
                    raise _error(dockerfile, UndefinedStage, f"there is no stage number {name}", item, earlier)


def _error(
    dockerfile: Dockerfile, kind: type[DockerfileError], message: str, at: Instruction, remedy: str
) -> DockerfileError:
    return kind(message, where=at.location, excerpt=dockerfile.excerpt(at.location), remedy=remedy)


def _known(stages: tuple[Stage, ...]) -> str:
    if not stages:
        return "There is no earlier stage."
    names = ", ".join(f"{stage.index} ({stage.name})" if stage.name else str(stage.index) for stage in stages)
    return f"Known stages: {names}."
