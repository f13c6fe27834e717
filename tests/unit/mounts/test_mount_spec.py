"""What --mount=type=cache says, and what of it is part of the step's key."""

from __future__ import annotations

import pytest

from ci_plugins.dockerfile.instructions import Mount
from ci_plugins.errors import DockerfileSyntaxError, Location
from ci_plugins.mounts.spec import MountSpec, mount_spec
from ci_plugins.oci import Digest, sha256_digest

HERE = Location("Dockerfile", 2)
STAGE = sha256_digest(b"stage")


def spec(text: str, working_dir: str = "/work", origin: Digest | None = None) -> MountSpec:
    options = tuple((name, value) for name, _, value in (item.partition("=") for item in text.split(",")))
    return mount_spec(Mount(options), working_dir, origin, HERE)


def test_defaults_are_those_of_the_reference() -> None:
    assert spec("target=/root/.cache/") == MountSpec("/root/.cache", "/root/.cache", "shared", False, 0o755, 0, 0)


def test_targets_are_relative_to_the_working_directory_ids_are_as_written() -> None:
    assert (spec("target=deps").target, spec("target=deps").id) == ("/work/deps", "deps")
    assert spec("target=//x/../y").target == "/y"


@pytest.mark.parametrize(
    ("text", "readonly"),
    [("readonly=true", True), ("readonly=0", False), ("readwrite=false", True), ("readonly=1,readwrite=true", False)],
)
def test_the_last_of_ro_and_rw_counts(text: str, readonly: bool) -> None:
    assert spec(f"target=/c,{text}").readonly is readonly


@pytest.mark.parametrize(
    "text", ["id=x", "target=/", "target=..", "target=/c,sharing=some", "target=/c,mode=0999", "target=/c,mode=77777",
             "target=/c,uid=-1", "target=/c,uid=4294967296", "target=/c,gid=name", "target=/c,readonly=perhaps"],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DockerfileSyntaxError, match="Dockerfile:2:1"):
        spec(text, "/")


def test_the_directory_depends_on_the_id_and_on_what_it_begins_with() -> None:
    same = [
        spec("target=/a,id=x"),
        spec("target=/b,id=x,readonly=true,sharing=locked"),
        spec("target=/a,id=x,mode=755"),
    ]
    assert len({one.key for one in same}) == 1
    others = [
        spec("target=/a"), spec("target=/a,id=x,uid=1"), spec("target=/a,id=x,gid=1"), spec("target=/a,id=x,mode=700"),
        spec("target=/a,id=x", origin=STAGE), spec("target=/a,id=x,source=y", origin=STAGE),
    ]  # fmt: skip
    assert len({one.key for one in (same[0], *others)}) == 7


def test_everything_written_is_part_of_the_steps_key() -> None:
    variants = [
        spec("target=/a"), spec("target=/b"), spec("target=/a,id=x"), spec("target=/a,sharing=locked"),
        spec("target=/a,readonly=true"), spec("target=/a,mode=700"), spec("target=/a,uid=1"), spec("target=/a,gid=1"),
        spec("target=/a", origin=STAGE), spec("target=/a,source=/s", origin=STAGE),
    ]  # fmt: skip
    assert len({one.fields() for one in variants}) == len(variants)
