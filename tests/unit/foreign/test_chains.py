"""From an image's config to layers that can be found again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.dockerfile.predefined import DEFAULT_PATH
from ci_plugins.foreign.chains import ForeignLayer, RunState, UnfitHistory, foreign_key, foreign_layers
from ci_plugins.foreign.history import Command, Kind
from ci_plugins.oci import Descriptor, History, ImageConfig, Platform, chain_id, media, sha256_digest

AMD64 = Platform("linux", "amd64")
BUILDKIT = "buildkit.dockerfile.v0"


def entries(*texts: str, comment: str = BUILDKIT, author: str = "") -> tuple[History, ...]:
    """One that begins with "-" has no layer."""
    return tuple(History(t.lstrip("-"), "2026-01-01", comment, t.startswith("-"), author) for t in texts)


def layers(history: Sequence[History], count: int | None = None, **config: object) -> list[ForeignLayer]:
    filled = sum(not entry.empty_layer for entry in history)
    count = filled if count is None else count
    diff_ids = tuple(sha256_digest(b"tar%d" % number) for number in range(count))
    image = ImageConfig(AMD64, config, diff_ids, tuple(history))
    blobs = [Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b"gz%d" % number), 10) for number in range(count)]
    return foreign_layers(image, blobs)


def state(environment: dict[str, str] | None = None, user: str = "", working_dir: str = "/") -> RunState:
    return RunState(environment or {}, user, working_dir)


def run_key(text: str, seen: RunState, *below: bytes) -> str:
    chain = None
    for content in below:
        chain = chain_id(chain, sha256_digest(content))
    return foreign_key(AMD64, chain, Command(Kind.RUN, text), seen)


def test_a_chain_of_layers() -> None:
    found = layers(entries("COPY a /", "-ENV A=1", "RUN /bin/sh -c make # buildkit", "-CMD x"), Env=["A=1"])
    assert [layer.command for layer in found] == [Command(Kind.COPY, "a /"), Command(Kind.RUN, "/bin/sh -c make")]
    assert found[0].below is None
    assert found[0].chain == found[1].below == sha256_digest(b"tar0")
    assert found[1].descriptor.digest == sha256_digest(b"gz1")
    assert found[1].key == run_key("/bin/sh -c make", state({"A": "1"}), b"tar0")


@pytest.mark.parametrize(
    ("history", "count", "reason"),
    [
        ((), 1, "no history"),
        (entries("RUN a"), 2, "history tells of 1 layers, its config of 2"),
        (entries("RUN a", "-ENV A=1", "RUN b"), 1, "history tells of 2 layers, its config of 1"),
    ],
)
def test_a_history_that_does_not_fit(history: tuple[History, ...], count: int, reason: str) -> None:
    with pytest.raises(UnfitHistory, match=reason):
        layers(history, count)


@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", sha256_digest(b""), 1),
        Descriptor(media.OCI_LAYER_GZIP + "+encrypted", sha256_digest(b""), 1),
        Descriptor(media.OCI_LAYER_GZIP, sha256_digest(b""), 1, urls=("https://example.com/layer",)),
    ],
)
def test_layers_that_cannot_be_read(descriptor: Descriptor) -> None:
    image = ImageConfig(AMD64, {}, (sha256_digest(b"t"),), entries("RUN a"))
    with pytest.raises(UnfitHistory, match="layer of type"):
        foreign_layers(image, [descriptor])


def test_what_a_run_sees_changes_its_key() -> None:
    def key(*texts: str, **config: Any) -> str:
        return layers(entries(*texts, "RUN /bin/sh -c make"), **config)[-1].key

    keys = [
        key(),
        key("-ENV A=1", Env=["A=1"]),
        key("-ENV A=2", Env=["A=2"]),
        key("-USER nobody", User="nobody"),
        key("-WORKDIR /app", WorkingDir="/app"),
        key('-SHELL ["/bin/bash","-c"]', "-ENV B=1", Env=["B=1"], Shell=["/bin/bash", "-c"]),
    ]
    assert len(set(keys)) == len(keys)
    # and what it does not see does not
    assert key("-LABEL a=b", "-EXPOSE 80", '-CMD ["x"]', Labels={"a": "b"}, Cmd=["x"]) == keys[0]


def test_state_is_that_of_the_place_and_not_of_the_end() -> None:
    history = entries("RUN /bin/sh -c one", "-ENV A=1", "-USER u", "-WORKDIR /w", "RUN /bin/sh -c two", "-ENV A=2 B=3")
    found = layers(history, Env=["PATH=/bin", "A=2", "B=3"], User="u", WorkingDir="/w")
    assert found[0].key == run_key("/bin/sh -c one", state({"PATH": "/bin"}))
    assert found[1].key == run_key("/bin/sh -c two", state({"PATH": "/bin", "A": "1"}, "u", "/w"), b"tar0")


def test_a_path_that_is_set_later_was_the_usual_one_before() -> None:
    found = layers(entries("RUN /bin/sh -c one", "-ENV PATH=/v/bin:/bin"), Env=["PATH=/v/bin:/bin"])
    assert found[0].key == run_key("/bin/sh -c one", state({"PATH": DEFAULT_PATH}))


def test_workdirs_build_on_each_other() -> None:
    found = layers(entries("-WORKDIR /a", "-WORKDIR b", "RUN /bin/sh -c x"), WorkingDir="/a/b")
    assert found[0].key == run_key("/bin/sh -c x", state(working_dir="/a/b"))


@pytest.mark.parametrize(
    "history",
    [
        # a value that was replaced before it is known for certain, and changed later
        ("-ENV A=$B", "RUN /bin/sh -c x", "-ENV A=2"),
        ("-USER $WHO", "RUN /bin/sh -c x"),
        ("-WORKDIR $HOME", "RUN /bin/sh -c x"),
    ],
)
def test_a_state_that_cannot_be_told(history: tuple[str, ...]) -> None:
    assert layers(entries(*history), Env=["A=2"], User="root", WorkingDir="/") == []


def test_a_layer_of_several_steps_belongs_to_none() -> None:
    """`buildah bud` without --layers and `docker build --squash`: only the last entry has a layer."""
    assert layers(entries("-RUN /bin/sh -c a", "RUN /bin/sh -c b")) == []
    assert layers(entries("-COPY a /", "RUN /bin/sh -c b")) == []
    assert layers(entries("-RUN /bin/sh -c a", "-ENV A=1", "CMD x"), Env=["A=1"]) == []
    # the layers above are layers like any other
    [above] = layers(entries("-RUN /bin/sh -c a", "CMD x", "RUN /bin/sh -c b"))
    assert above.below == sha256_digest(b"tar0")


def test_kaniko_args_and_others_args() -> None:
    history = (
        *entries("-/bin/sh -c #(nop)  ARG RELEASE", comment=""),
        *entries("RUN make", comment="", author="kaniko"),
    )
    assert [layer.command.text for layer in layers(history)] == ["/bin/sh -c make"]
    history = entries("-ARG V=1", "RUN make $V", comment="", author="kaniko")
    assert layers(history) == []


def test_platforms_do_not_mix() -> None:
    command = Command(Kind.COPY, "a /")
    assert foreign_key(AMD64, None, command) != foreign_key(Platform("linux", "arm64"), None, command)
    assert foreign_key(AMD64, None, command) == foreign_key(AMD64, None, Command(Kind.COPY, "b /elsewhere"))


_TEXTS = st.sampled_from(
    [
        "RUN /bin/sh -c x",
        "-ENV A=1",
        "-ENV A",
        "-ENV =",
        "-ENV A=1 B",
        "WORKDIR ..",
        "-SHELL x",
        "-SHELL [",
        "-USER ",
        "",
    ]
)


@given(st.lists(_TEXTS | st.text(max_size=8), max_size=8), st.integers(0, 4), st.sampled_from(["", BUILDKIT]))
def test_nothing_but_unfit_histories_is_refused(texts: list[str], count: int, comment: str) -> None:
    try:
        found = layers(entries(*texts, comment=comment), count, Env=["A=1", "=", "B"], User="u")
    except UnfitHistory:
        return
    assert len(found) <= count
