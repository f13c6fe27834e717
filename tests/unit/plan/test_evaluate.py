"""Steps and keys of whole Dockerfiles: what changes a key, what does not, and what a plan makes of records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci_plugins.cache.record import CacheRecord
from ci_plugins.context import Context
from ci_plugins.dockerfile import Instruction, parse_dockerfile
from ci_plugins.errors import CopySourceNotFound, ImageNotFound, PlatformNotAvailable, UnsupportedInstruction
from ci_plugins.oci import Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, sha256_digest
from ci_plugins.plan.evaluate import Evaluator, Inputs
from ci_plugins.plan.planner import Plan, make_plan
from ci_plugins.plan.steps import BaseImage, RunWork, Stage

AMD64 = Platform("linux", "amd64")


def base_image(name: str, config: Mapping[str, object] = {}, content: bytes = b"") -> BaseImage:
    image = ImageConfig(
        AMD64, config={"Env": ["PATH=/bin", "LEVEL=base"], **config}, diff_ids=(sha256_digest(b"tar" + content),)
    )
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", sha256_digest(b"gz" + content), 3)
    return BaseImage(name, Reference.parse(name), Manifest.of(image.descriptor(), [layer]), image)


class Build:
    """A Dockerfile with its context, evaluated like the pipeline does."""

    def __init__(self, directory: Path, images: Mapping[str, BaseImage] | None = None) -> None:
        self.directory = directory
        self.images = images if images is not None else {"base": base_image("base")}

    def evaluate(self, text: str, target: str = "", **build_args: str) -> tuple[Stage, tuple[Stage, ...]]:
        dockerfile = parse_dockerfile(text)
        inputs = Inputs(
            platform=AMD64,
            target=target,
            build_args=build_args,
            network="host",
            image=self._image,
            context=lambda: Context.open(self.directory, None),
        )
        evaluator = Evaluator(dockerfile, inputs)
        stage = evaluator.stage(dockerfile.target(target))
        return stage, evaluator.evaluated()

    def key(self, text: str, **build_args: str) -> Digest:
        return self.evaluate(text, **build_args)[0].key

    def run(self, text: str, **build_args: str) -> RunWork:
        """The last RUN of the last stage."""
        works = [step.work for step in self.evaluate(text, **build_args)[0].steps]
        return next(work for work in reversed(works) if isinstance(work, RunWork))

    def plan(self, text: str, known: int, target: str = "") -> Plan:
        """With records of the first `known` steps, counted over the stages in their order."""
        stage, stages = self.evaluate(text, target)
        keys = [step.key for one in stages for step in one.steps]
        records = {key: CacheRecord(key, None, "x", None, "2026-01-01T00:00:00Z", 1.0) for key in keys[:known]}
        return make_plan(stages, stage, records, lambda record: True)

    def _image(self, name: str, instruction: Instruction) -> BaseImage:
        if name not in self.images:
            raise ImageNotFound(name, where=instruction.location)
        return self.images[name]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a")
    (tmp_path / "src" / "b.py").write_text("b")
    (tmp_path / "other").write_text("not copied")
    return Build(tmp_path)


COPY_SRC = "FROM base\nCOPY src /app/\n"


def test_every_step_on_the_way_has_a_key_of_its_own(build: Build) -> None:
    stage, _ = build.evaluate("FROM base\nENV A=1\nRUN make\nRUN make\nCMD x\n")
    assert len({stage.root_key, *(step.key for step in stage.steps)}) == 5
    assert [step.number for step in stage.steps] == [0, 2, 3, 0]
    assert stage.total == 3


def test_contents_names_modes_and_links_change_the_key(build: Build) -> None:
    file, link = build.directory / "src" / "a.py", build.directory / "src" / "link"
    keys = [build.key(COPY_SRC)]

    def note() -> None:
        keys.append(build.key(COPY_SRC))

    file.write_text("A")
    note()
    file.chmod(0o755)
    note()
    file.rename(build.directory / "src" / "c.py")
    note()
    link.symlink_to("b.py")
    note()
    link.unlink()
    link.symlink_to("c.py")
    note()
    link.unlink()
    link.mkdir()
    note()
    assert len(set(keys)) == len(keys)


def test_two_files_that_swap_their_contents_change_the_key(build: Build) -> None:
    before = build.key(COPY_SRC)
    (build.directory / "src" / "a.py").write_text("b")
    (build.directory / "src" / "b.py").write_text("a")
    assert build.key(COPY_SRC) != before


def test_times_and_what_is_not_copied_do_not_change_the_key(build: Build) -> None:
    before = build.key(COPY_SRC)
    os.utime(build.directory / "src" / "a.py", (1, 1))
    (build.directory / "other").write_text("changed")
    (build.directory / ".dockerignore").write_text("other\n")
    assert build.key(COPY_SRC) == before


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(["one", "two", "three", "four"]))
def test_the_order_in_which_files_were_made_does_not_change_the_key(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("context")
    (directory / "src").mkdir()
    for name in names:
        (directory / "src" / name).write_text(name)
    reference = tmp_path_factory.mktemp("context")
    (reference / "src").mkdir()
    for name in sorted(names):
        (reference / "src" / name).write_text(name)
    assert Build(directory).key(COPY_SRC) == Build(reference).key(COPY_SRC)


@pytest.mark.parametrize(
    "changed",
    [
        "FROM base\nCOPY src /app2/\n",
        "FROM base\nCOPY --chown=1:1 src /app/\n",
        "FROM base\nCOPY --chmod=700 src /app/\n",
        "FROM base\nCOPY --link src /app/\n",
        "FROM base\nADD src /app/\n",
        "FROM base\nWORKDIR /app\nCOPY src /app/\n",
        "FROM scratch\nCOPY src /app/\n",
    ],
)
def test_everything_a_copy_says_changes_the_key(build: Build, changed: str) -> None:
    assert build.key(changed) != build.key(COPY_SRC)


def test_the_base_images_manifest_changes_the_key(build: Build) -> None:
    other = Build(build.directory, {"base": base_image("base", content=b"new")})
    assert other.key("FROM base\nRUN make\n") != build.key("FROM base\nRUN make\n")


def test_a_declared_build_arg_changes_the_run_and_an_undeclared_one_does_not(build: Build) -> None:
    text = "FROM base\nARG VERSION=1\nRUN make\n"
    assert build.key(text) == build.key(text, VERSION="1")
    assert build.key(text) != build.key(text, VERSION="2")
    assert build.key("FROM base\nRUN make\n", VERSION="2") == build.key("FROM base\nRUN make\n")


def test_proxies_reach_the_run_but_not_its_key_nor_the_history(build: Build) -> None:
    text = "FROM base\nRUN make\n"
    assert build.run(text, HTTP_PROXY="http://p").environment["HTTP_PROXY"] == "http://p"
    assert build.key(text, HTTP_PROXY="http://p") == build.key(text)
    assert build.evaluate(text, HTTP_PROXY="http://p")[0].steps[-1].created_by == "RUN /bin/sh -c make"


def test_the_later_of_arg_and_env_wins(build: Build) -> None:
    assert build.run("FROM base\nARG A=arg\nENV A=env\nRUN x\n", A="given").environment["A"] == "env"
    assert build.run("FROM base\nENV A=env\nARG A=arg\nRUN x\n").environment["A"] == "arg"


def test_global_args_and_platform_args_need_a_declaration_in_the_stage(build: Build) -> None:
    text = "ARG V=7\nFROM base\n{}RUN x\n"
    assert "V" not in build.run(text.format("")).environment
    environment = build.run(text.format("ARG V\nARG TARGETARCH\nARG UNSET\n")).environment
    assert (environment["V"], environment["TARGETARCH"]) == ("7", "amd64")
    assert "UNSET" not in environment


def test_a_stage_inherits_the_args_of_the_one_it_stands_on_and_of_no_other(build: Build) -> None:
    text = "FROM base AS one\nARG A=1\nFROM {} AS two\nRUN x\n"
    assert build.run(text.format("one")).environment["A"] == "1"
    assert "A" not in build.run(text.format("base")).environment


def test_history_names_the_args_a_run_saw(build: Build) -> None:
    stage, _ = build.evaluate("FROM base\nARG A=1\nARG B=2\nRUN make\n")
    assert stage.steps[-1].created_by == "RUN |2 A=1 B=2 /bin/sh -c make"


def test_a_heredoc_is_the_script_or_a_file_to_run(build: Build) -> None:
    assert build.run("FROM base\nRUN <<EOF\necho a\necho b\nEOF\n").argv == ("/bin/sh", "-c", "echo a\necho b\n")
    shebang = build.run("FROM base\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n")
    assert shebang.argv == ("/dev/pipes/EOF",)
    assert shebang.files == {"/dev/pipes/EOF": b"#!/usr/bin/env python3\nprint(1)\n"}


def test_triggers_of_the_base_run_first_and_are_not_passed_on(tmp_path: Path) -> None:
    build = Build(tmp_path, {"base": base_image("base", {"OnBuild": ["RUN first", "ENV A=1"]})})
    stage, _ = build.evaluate("FROM base\nRUN second\n")
    assert [step.created_by for step in stage.steps] == ["RUN /bin/sh -c first", "ENV A=1", "RUN /bin/sh -c second"]
    assert "OnBuild" not in stage.config.config


def test_triggers_of_an_earlier_stage_run_too(build: Build) -> None:
    stage, _ = build.evaluate(
        "FROM base AS one\nONBUILD RUN first\nFROM one AS two\nRUN second\nFROM two\nRUN third\n", "two"
    )
    assert [step.created_by for step in stage.steps] == ["RUN /bin/sh -c first", "RUN /bin/sh -c second"]
    assert "OnBuild" not in stage.config.config


def test_only_stages_the_target_needs_are_evaluated(build: Build) -> None:
    text = "FROM base AS a\nRUN a\nFROM nowhere AS b\nRUN b\nFROM scratch AS c\nCOPY --from=a /x /x\n"
    _, stages = build.evaluate(text, "c")
    assert [stage.name for stage in stages] == ["a", "c"]
    with pytest.raises(ImageNotFound, match="Dockerfile:3:1"):
        build.evaluate(text, "b")


def test_a_copy_from_a_stage_depends_on_that_stages_key(build: Build) -> None:
    text = "FROM base AS a\nRUN {}\nFROM scratch\nCOPY --from=a /x /x\n"
    assert build.key(text.format("one")) != build.key(text.format("two"))


def test_a_cache_mount_is_part_of_the_key_and_needs_the_stage_it_is_filled_from(build: Build) -> None:
    text = "FROM base AS seed\nRUN {}\nFROM base\nRUN {} make\n"
    mounts = ("", "--mount=type=cache,target=/c", "--mount=type=cache,target=/d",
              "--mount=type=cache,target=/c,from=seed", "--mount=type=cache,target=/c,from=seed,source=/x")  # fmt: skip
    assert len({build.key(text.format("one", mount)) for mount in mounts}) == len(mounts)
    assert build.key(text.format("one", mounts[1])) == build.key(text.format("two", mounts[1]))
    assert build.key(text.format("one", mounts[3])) != build.key(text.format("two", mounts[3]))
    assert [len(build.plan(text.format("one", mount), known=0).stages) for mount in (mounts[1], mounts[3])] == [1, 2]
    seed = build.plan(text.format("one", mounts[3]), known=1).stages[0]
    assert (len(seed.executed), seed.keep_until) == (0, 1)
    (mount,) = build.run(text.format("one", mounts[4])).mounts
    assert (mount.origin, mount.spec.source, mount.spec.id) == (0, "x", "/c")


def test_what_is_not_executed_is_refused_with_its_place(build: Build) -> None:
    with pytest.raises(UnsupportedInstruction, match=r"Dockerfile:2:1: RUN --mount=type=tmpfs"):
        build.evaluate("FROM base\nRUN --mount=type=tmpfs,target=/c make\n")


def test_a_copy_of_nothing_says_where(build: Build) -> None:
    with pytest.raises(CopySourceNotFound, match=r"Dockerfile:2:1: .*missing"):
        build.evaluate("FROM base\nCOPY missing /\n")


def test_another_platform_is_refused(build: Build) -> None:
    build.evaluate("FROM --platform=$BUILDPLATFORM base\nRUN x\n")
    with pytest.raises(PlatformNotAvailable, match="Dockerfile:1:1"):
        build.evaluate("FROM --platform=linux/s390x base\nRUN x\n")


# --- plans -----------------------------------------------------------------------------------------------------------

STAGES = "FROM base AS a\nRUN a1\nRUN a2\nFROM base AS b\nRUN b1\nFROM a\nCOPY --from=b /x /x\nRUN c2\nENV Z=1\n"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # known steps → stage: (reused, executed, run_until, keep_until, run_on_base)
        (0, {"a": (0, 2, 2, 2, True), "b": (0, 1, 0, 1, True), "stage-2": (0, 3, 1, 1, True)}),
        (1, {"a": (1, 1, 2, 2, True), "b": (0, 1, 0, 1, True), "stage-2": (0, 3, 1, 1, True)}),
        (3, {"a": (2, 0, 2, 2, True), "b": (1, 0, 0, 1, False), "stage-2": (0, 3, 1, 1, True)}),
        (4, {"a": (2, 0, 2, 2, True), "stage-2": (1, 2, 1, 1, True)}),
        (5, {"a": (2, 0, 0, 0, False), "stage-2": (2, 1, 0, 0, False)}),
        (6, {"a": (2, 0, 0, 0, False), "stage-2": (3, 0, 0, 0, False)}),
    ],
)
def test_the_first_miss_decides_and_only_what_runs_needs_files(
    build: Build, known: int, expected: dict[str, tuple[int, int, int, int, bool]]
) -> None:
    plan = build.plan(STAGES, known)
    assert {
        item.stage.name: (len(item.reused), len(item.executed), item.run_until, item.keep_until, item.run_on_base)
        for item in plan.stages
    } == expected
    assert plan.executes_nothing == (known == 6)


def test_a_record_beyond_a_miss_is_not_used(build: Build) -> None:
    stage, stages = build.evaluate("FROM base\nRUN a\nRUN b\n")
    last = stage.steps[-1].key
    record = CacheRecord(last, None, "RUN b", None, "2026-01-01T00:00:00Z", 1.0)
    assert not make_plan(stages, stage, {last: record}, lambda record: True).target.reused
    first = CacheRecord(stage.steps[0].key, None, "RUN a", None, "2026-01-01T00:00:00Z", 1.0)
    both = {last: record, first.key: first}
    assert len(make_plan(stages, stage, both, lambda record: True).target.reused) == 2
    assert not make_plan(stages, stage, both, lambda record: record is not first).target.reused


def test_of_two_stages_of_one_name_the_last_is_meant(build: Build) -> None:
    stage, _ = build.evaluate("FROM base AS a\nRUN one\nFROM base AS a\nRUN two\nFROM a\nRUN x\n")
    assert stage.base == 1
