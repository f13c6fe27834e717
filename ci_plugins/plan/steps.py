"""Steps: the instructions of a stage with everything resolved that can be known before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ci_plugins.dockerfile.instructions import Instruction
from ci_plugins.layer.copy_digest import CopySources
from ci_plugins.layer.copy_request import CopyRequest
from ci_plugins.mounts.spec import MountSpec
from ci_plugins.oci import Descriptor, Digest, ImageConfig, Manifest, Reference

Network = Literal["host", "none"]


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image a stage stands on or copies from. `reference` names the repository its blobs are in."""

    name: str
    reference: Reference
    manifest: Manifest
    config: ImageConfig

    @property
    def digest(self) -> Digest:
        return self.manifest.descriptor.digest

    @property
    def layers(self) -> tuple[tuple[Descriptor, Digest], ...]:
        """(descriptor, DiffID) of every layer, lowest first."""
        return tuple(zip(self.manifest.layers, self.config.diff_ids, strict=True))


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A cache mount of a RUN. `origin` is the stage's index or the image that a new one is filled from."""

    spec: MountSpec
    origin: int | BaseImage | None


@dataclass(frozen=True, slots=True)
class RunWork:
    """RUN: what the container executes. `files` are executable files that exist for the command only, by path: a
    heredoc that begins with `#!`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    network: Network
    files: Mapping[str, bytes]
    mounts: tuple[CacheMount, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyWork:
    """COPY or ADD. `origin` is None for the build context, a stage's index, or an image; `origin_key` names what is
    there, and `read` knows more of a build context. `chown` is resolved when the step is executed: names stand in the
    files below."""

    request: CopyRequest
    chown: str
    origin: int | BaseImage | None
    origin_key: Digest | None = None
    read: CopySources | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WorkdirWork:
    """WORKDIR: the directory is created if it is not there."""

    path: str


Work = RunWork | CopyWork | WorkdirWork


def stages_read(work: Work | None) -> tuple[int, ...]:
    """Indexes of the stages a step takes files from, besides what it stands on."""
    match work:
        case CopyWork():
            origins: tuple[int | BaseImage | None, ...] = (work.origin,)
        case RunWork():
            origins = tuple(mount.origin for mount in work.mounts)
        case _:
            origins = ()
    return tuple(origin for origin in origins if isinstance(origin, int))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction of one stage.

    `work` is None where only the config changes. `before` and `after` are the image configs around the step, without
    the history and layers that it adds. `number` counts from 1 (FROM is 1); it is 0 for a step without work.
    """

    key: Digest
    parent: Digest
    instruction: Instruction
    number: int
    work: Work | None
    before: ImageConfig
    after: ImageConfig
    #: the config history's `created_by`
    created_by: str
    #: makes the words that say what the key was made of (plan/inputs.py); only what is executed or explained is asked
    describe: Callable[[], Mapping[str, str]] = field(default=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        """The instruction on one line, for people."""
        return " ".join(self.instruction.source.replace("\\\n", " ").split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`base` is an image, the index of an earlier stage, or None for scratch. `total` is the highest step number."""

    index: int
    name: str
    base: BaseImage | int | None
    root_key: Digest
    steps: tuple[Step, ...]
    total: int
    config: ImageConfig

    @property
    def key(self) -> Digest:
        """Names everything the stage's result depends on."""
        return self.steps[-1].key if self.steps else self.root_key

    def images(self) -> tuple[BaseImage, ...]:
        """What it stands on and what it copies from, as far as these are images."""
        origins = [self.base, *(step.work.origin for step in self.steps if isinstance(step.work, CopyWork))]
        return tuple(origin for origin in origins if isinstance(origin, BaseImage))
