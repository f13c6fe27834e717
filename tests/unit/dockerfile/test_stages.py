"""Stages, the names and numbers they are found by, and the arguments that exist without ARG."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci_plugins.dockerfile import load_dockerfile, parse_dockerfile, parse_instruction, stage_references
from ci_plugins.dockerfile.predefined import PLATFORM_ARGS, PROXY_ARGS, platform_args
from ci_plugins.errors import DockerfileNotFound, DockerfileSyntaxError, Location, UndefinedStage
from ci_plugins.oci import Platform

TEXT = """\
ARG V=1
FROM debian AS Base
RUN a
FROM base
RUN b
FROM scratch AS final-1.x
COPY --from=BASE /x /x
COPY --from=1 /y /y
COPY --from=2.example.org/image /z /z
"""


def test_stages_and_their_instructions() -> None:
    dockerfile = parse_dockerfile(TEXT, "sub/Dockerfile")
    assert [(stage.index, stage.name, str(stage), len(stage.instructions)) for stage in dockerfile.stages] == [
        (0, "base", "base", 1),
        (1, "", "stage-1", 1),
        (2, "final-1.x", "final-1.x", 3),
    ]
    assert dockerfile.path == "sub/Dockerfile"
    assert [arg.items for arg in dockerfile.global_args] == [(("V", "1"),)]


@pytest.mark.parametrize(
    ("name", "index"),
    [("base", 0), ("BASE", 0), ("0", 0), ("1", 1), ("02", 2), ("Final-1.X", 2), ("3", None), ("x", None)],
)
def test_stage_by_name_or_number(name: str, index: int | None) -> None:
    stage = parse_dockerfile(TEXT).stage(name)
    assert (stage.index if stage else None) == index


def test_only_earlier_stages() -> None:
    dockerfile = parse_dockerfile(TEXT)
    assert dockerfile.stage("base", before=0) is None
    assert dockerfile.stage("base", before=1) is dockerfile.stages[0]
    assert dockerfile.stage("1", before=1) is None


def test_target() -> None:
    dockerfile = parse_dockerfile(TEXT)
    assert dockerfile.target().index == 2
    assert dockerfile.target("Base").index == 0
    with pytest.raises(UndefinedStage) as caught:
        dockerfile.target("bse")
    assert "'bse'" in caught.value.message
    assert caught.value.remedy == "Known stages: 0 (base), 1, 2 (final-1.x)."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FROM a AS b", ("a",)),
        ("COPY --from=a x y", ("a",)),
        ("COPY x y", ()),
        ("RUN --mount=from=a,target=/a --mount=type=cache,target=/c --mount=from=2,target=/b x", ("a", "2")),
        ("ONBUILD COPY --from=a x y", ("a",)),
        ("ADD x y", ()),
    ],
)
def test_stage_references(text: str, names: tuple[str, ...]) -> None:
    assert stage_references(parse_instruction(text, Location("f", 1))) == names


def test_mount_from_a_later_stage_is_refused() -> None:
    with pytest.raises(UndefinedStage, match="RUN takes from 'b', which is a later stage"):
        parse_dockerfile("FROM x\nRUN --mount=from=b,target=/b x\nFROM y AS b\n")


def test_onbuild_may_name_a_stage_of_another_dockerfile() -> None:
    assert parse_dockerfile("FROM x\nONBUILD COPY --from=9 a b\n").stages[0].instructions


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    with pytest.raises(DockerfileNotFound) as caught:
        load_dockerfile(path, shown_as="app/Dockerfile")
    assert "app/Dockerfile" in str(caught.value)
    with pytest.raises(DockerfileNotFound):
        load_dockerfile(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf# caf\xe9\r\nFROM a\r\n")
    dockerfile = load_dockerfile(path)
    assert dockerfile.path == str(path)
    assert dockerfile.text == "# caf?\r\nFROM a\r\n"
    assert dockerfile.excerpt(dockerfile.stages[0].from_.location) == "1 | # caf?\n2 | FROM a\n  | ^"


def test_error_without_a_name_has_the_default_one() -> None:
    with pytest.raises(DockerfileSyntaxError) as caught:
        parse_dockerfile("FROM a b\n")
    assert str(caught.value.where) == "Dockerfile:1:8"


def test_predefined_arguments() -> None:
    assert {"HTTP_PROXY", "http_proxy", "no_proxy", "ALL_PROXY", "ftp_proxy"} <= set(PROXY_ARGS)
    values = platform_args(Platform("linux", "amd64"), Platform("linux", "arm", "v7"), "test")
    assert set(values) == {*PLATFORM_ARGS, "TARGETSTAGE"}
    assert (values["BUILDPLATFORM"], values["TARGETPLATFORM"], values["TARGETVARIANT"]) == (
        "linux/amd64",
        "linux/arm/v7",
        "v7",
    )
    assert values["TARGETSTAGE"] == "test"
    assert platform_args(Platform("linux", "amd64"), Platform("linux", "amd64"))["TARGETSTAGE"] == "default"
