"""Stages to steps: variables expanded, configs derived, keys computed, without running or pulling anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial

from ci_plugins.dockerfile import parse_instruction, support
from ci_plugins.dockerfile.expand import Scope
from ci_plugins.dockerfile.instructions import Add, Arg, Cmd, Copy, Env, Instruction, Run, Workdir
from ci_plugins.dockerfile.predefined import PROXY_ARGS, platform_args
from ci_plugins.dockerfile.stages import Dockerfile, stage_references
from ci_plugins.dockerfile.stages import Stage as ParsedStage
from ci_plugins.errors import PlatformNotAvailable, UnsupportedInstruction, placed
from ci_plugins.layer.copy import FileTree
from ci_plugins.layer.copy_digest import CopySources, copy_sources
from ci_plugins.mounts.spec import mount_spec
from ci_plugins.oci import Digest, ImageConfig, Platform
from ci_plugins.plan.image import apply, scratch_config
from ci_plugins.plan.inputs import image_name, step_inputs
from ci_plugins.plan.keys import Field, base_key, step_key
from ci_plugins.plan.steps import BaseImage, CacheMount, CopyWork, Network, Stage, Step, Work, WorkdirWork
from ci_plugins.plan.work import copy_work, created_by, run_work


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a build takes besides the Dockerfile. `image` resolves a name to a base image; `context` opens the build
    context on first use."""

    platform: Platform
    target: str
    build_args: Mapping[str, str]
    network: Network
    image: Callable[[str, Instruction], BaseImage]
    context: Callable[[], FileTree]


@dataclass(slots=True)
class _State:
    """What changes from instruction to instruction."""

    config: ImageConfig
    key: Digest
    #: what expansion and RUN see: the image's ENV and declared ARGs, the later one winning as in BuildKit
    environment: dict[str, str]
    #: declared ARGs that have a value
    args: dict[str, str] = field(default_factory=dict)
    cmd_was_set: bool = False
    number: int = 1
    #: the image the next step stands on, for people; empty if that is another step
    root: str = ""
    steps: list[Step] = field(default_factory=list)


class Evaluator:
    """Evaluates the stages of one Dockerfile, each once."""

    def __init__(self, dockerfile: Dockerfile, inputs: Inputs) -> None:
        self._dockerfile = dockerfile
        self._inputs = inputs
        self._done: dict[int, Stage] = {}
        #: the state at the end of a stage
        self._left: dict[int, _State] = {}
        #: names of --build-arg that some ARG took
        self.consumed: set[str] = set()
        self._global = self._global_args()

    def stage(self, parsed: ParsedStage) -> Stage:
        """The stage with its steps; stages it stands on or copies from are evaluated before it."""
        if parsed.index not in self._done:
            self._done[parsed.index] = self._evaluate(parsed)
        return self._done[parsed.index]

    def evaluated(self) -> tuple[Stage, ...]:
        return tuple(self._done[index] for index in sorted(self._done))

    def images_of(self, parsed: ParsedStage) -> frozenset[str]:
        """Names of the images that a stage needs, directly or through others, as far as its text tells."""
        images: set[str] = set()
        for instruction in (parsed.from_.expanded(Scope(self._global)), *parsed.instructions):
            for name in stage_references(instruction):
                earlier = self._dockerfile.stage(name, before=parsed.index)
                images |= self.images_of(earlier) if earlier else {name}
        return frozenset(images - {"scratch"})

    def _evaluate(self, parsed: ParsedStage) -> Stage:
        from_ = parsed.from_.expanded(Scope(self._global))
        self._check_platform(from_.platform, parsed.from_)
        base, state = self._root(from_.image, parsed)
        root_key = state.key
        # of a base image, and of an earlier stage too, as in BuildKit
        triggers = state.config.config.get("OnBuild") or ()
        state.config = state.config.with_config(OnBuild=None) if triggers else state.config
        for text in triggers:
            self._add(parse_instruction(text, parsed.from_.location), parsed, state)
        for instruction in parsed.instructions:
            self._add(instruction, parsed, state)
        self._left[parsed.index] = state
        return Stage(
            index=parsed.index,
            name=str(parsed),
            base=base,
            root_key=root_key,
            steps=tuple(state.steps),
            total=state.number,
            config=state.config,
        )

    def _root(self, image: str, parsed: ParsedStage) -> tuple[BaseImage | int | None, _State]:
        if image == "scratch":
            config = scratch_config(self._inputs.platform)
            return None, _State(config, base_key(self._inputs.platform, None), config.env(), root="scratch")
        earlier = self._dockerfile.stage(image, before=parsed.index)
        if earlier is not None:
            stage = self.stage(earlier)
            # A stage built on another one inherits its ARGs (Dockerfile reference, "Scope").
            inherited = self._left[earlier.index]
            return stage.index, _State(stage.config, stage.key, dict(inherited.environment), dict(inherited.args))
        found = self._inputs.image(image, parsed.from_)
        known = {name: found.config.extra[name] for name in ("os.version", "os.features") if name in found.config.extra}
        config = replace(found.config, extra=known)
        key = base_key(self._inputs.platform, found.digest)
        return found, _State(config, key, config.env(), root=image_name(found))

    def _add(self, instruction: Instruction, parsed: ParsedStage, state: _State) -> None:
        expanded = self._expanded(instruction, state)
        if refused := support.unsupported(expanded):
            raise UnsupportedInstruction(
                f"{refused} is not executed by the native engine",
                where=instruction.location,
                remedy="Build this Dockerfile with docker buildx for now, or write the step without it.",
            )
        before = state.config
        after = apply(expanded, before, cmd_was_set=state.cmd_was_set)
        work, inputs = self._work(expanded, parsed, state, after)
        state.cmd_was_set = state.cmd_was_set or isinstance(expanded, Cmd)
        state.number += work is not None
        key = step_key(state.key, expanded.name, *inputs)
        state.steps.append(
            Step(
                key=key,
                parent=state.key,
                instruction=instruction,
                number=state.number if work else 0,
                work=work,
                before=before,
                after=after,
                created_by=created_by(expanded, before, state.args, work),
                describe=cache(partial(step_inputs, instruction, work, dict(state.args), state.root)),
            )
        )
        state.key, state.config, state.root = key, after, ""

    def _work(
        self, instruction: Instruction, parsed: ParsedStage, state: _State, after: ImageConfig
    ) -> tuple[Work | None, tuple[Field, ...]]:
        """What is to be done, and the inputs of its key besides the parent."""
        match instruction:
            case Run():
                proxies = {k: v for k, v in self._inputs.build_args.items() if k in PROXY_ARGS}
                environment = {**proxies, **state.environment}
                mounts = self._mounts(instruction, parsed, state)
                run = run_work(instruction, state.config, environment, network=self._inputs.network, mounts=mounts)
                specs = ([mount.spec.fields() for mount in mounts],) if mounts else ()
                return run, (run.argv, dict(state.environment), run.network, run.files, *specs)
            case Copy() | Add():
                return self._copy(instruction, parsed, state)
            case Workdir():
                return WorkdirWork(after.working_dir), (after.working_dir,)
            case Arg():
                # What an ARG gives is an input of the RUNs that see it, not of the image by itself.
                return None, ()
            case _:
                return None, (after.config, after.author)

    def _copy(self, instruction: Copy | Add, parsed: ParsedStage, state: _State) -> tuple[CopyWork, tuple[Field, ...]]:
        name = instruction.from_ if isinstance(instruction, Copy) else ""
        origin, origin_key = self._origin(name, instruction, parsed)
        copy = copy_work(instruction, state.config, origin)
        request = copy.request
        read: CopySources | None = None
        if origin is None:
            with placed(instruction.location):
                read = copy_sources(request, self._inputs.context())
            origin_key = read.digest
        inputs: tuple[Field, ...] = (
            origin_key,
            list(request.sources),
            request.destination,
            request.working_dir,
            copy.chown,
            instruction.chmod,
            request.parents,
            list(request.exclude),
            request.unpack_archives,
            request.link,
            dict(request.inline),
        )
        return replace(copy, origin_key=origin_key, read=read), inputs

    def _mounts(self, run: Run, parsed: ParsedStage, state: _State) -> list[CacheMount]:
        mounts = []
        for mount in run.mounts:
            origin, origin_key = self._origin(mount.get("from"), run, parsed)
            spec = mount_spec(mount, state.config.working_dir, origin_key, run.location)
            mounts.append(CacheMount(spec, origin))
        return mounts

    def _origin(
        self, name: str, instruction: Instruction, parsed: ParsedStage
    ) -> tuple[int | BaseImage | None, Digest | None]:
        """A stage or image that files are taken from, and what names its contents."""
        if not name:
            return None, None
        earlier = self._dockerfile.stage(name, before=parsed.index)
        if earlier is not None:
            stage = self.stage(earlier)
            return stage.index, stage.key
        image = self._inputs.image(name, instruction)
        return image, image.digest

    def _expanded(self, instruction: Instruction, state: _State) -> Instruction:
        """With variables replaced, and with what it does to them done."""
        scope = Scope(state.environment)
        if not isinstance(instruction, Arg):
            expanded = instruction.expanded(scope)
            if isinstance(expanded, Env):
                state.environment |= dict(expanded.pairs)
            return expanded
        items = instruction.resolved(scope, self._inputs.build_args, self._global)
        values = {name: value for name, value in items if value is not None}
        self.consumed.update(name for name, _ in items)
        state.args |= values
        state.environment |= values
        return instruction

    def _global_args(self) -> dict[str, str]:
        platform = self._inputs.platform
        values = platform_args(platform, platform, self._inputs.target)
        # a --build-arg replaces what is there from the start, declared or not
        values |= {name: given for name, given in self._inputs.build_args.items() if name in values}
        self.consumed |= values.keys()
        for arg in self._dockerfile.global_args:
            items = arg.resolved(Scope(values), self._inputs.build_args)
            self.consumed.update(name for name, _ in items)
            values |= {name: value for name, value in items if value is not None}
        return values

    def _check_platform(self, text: str, at: Instruction) -> None:
        if text and Platform.parse(text) != self._inputs.platform:
            raise PlatformNotAvailable(
                f"FROM --platform={text}: this build runs steps for {self._inputs.platform} only",
                where=at.location,
                remedy="Remove --platform, or run the build on a machine of that platform.",
            )
