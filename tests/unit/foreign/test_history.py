"""Histories as builders write them, in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.foreign.history import Command, Kind, normalise
from ci_plugins.oci import History

BASH = ("/bin/bash", "-o", "pipefail", "-c")
SH = ("/bin/sh", "-c")
BUILDKIT, OURS, BUILDAH, KANIKO = "buildkit.dockerfile.v0", "ci-plugins", "FROM 0416fafa2373", "kaniko"


def read(text: str, by: str = "", shell: tuple[str, ...] = SH, *, args: bool = False) -> Command:
    author, comment = ("kaniko", "") if by == KANIKO else ("", by)
    return normalise(History(text, comment=comment, author=author), shell, args_declared=args)


def run(text: str) -> Command:
    return Command(Kind.RUN, text)


@pytest.mark.parametrize(
    ("text", "by", "shell", "expected"),
    [
        # a RUN in the default shell, five times
        ("/bin/sh -c apt-get update", "", SH, "/bin/sh -c apt-get update"),
        ("RUN /bin/sh -c apt-get update # buildkit", BUILDKIT, SH, "/bin/sh -c apt-get update"),
        ("RUN /bin/sh -c apt-get update # buildkit", "", SH, "/bin/sh -c apt-get update"),
        ("/bin/sh -c apt-get update", BUILDAH, SH, "/bin/sh -c apt-get update"),
        ("RUN apt-get update", KANIKO, SH, "/bin/sh -c apt-get update"),
        ("RUN /bin/sh -c apt-get update", OURS, SH, "/bin/sh -c apt-get update"),
        # several lines: what continuation lines were indented by stays
        ("/bin/sh -c a &&     b", "", SH, "/bin/sh -c a &&     b"),
        ("RUN /bin/sh -c a &&     b # buildkit", BUILDKIT, SH, "/bin/sh -c a &&     b"),
        ("RUN /bin/sh -c set -e\na\nb\n # buildkit", BUILDKIT, SH, "/bin/sh -c set -e\na\nb"),
        # another shell
        ("/bin/bash -o pipefail -c a | b", "", BASH, "/bin/bash -o pipefail -c a | b"),
        ("RUN /bin/bash -o pipefail -c a | b # buildkit", BUILDKIT, BASH, "/bin/bash -o pipefail -c a | b"),
        ("/bin/sh -c a | b", BUILDAH, BASH, "/bin/bash -o pipefail -c a | b"),
        ("RUN a | b", KANIKO, BASH, "/bin/bash -o pipefail -c a | b"),
        # arrays
        ("/usr/bin/make all", "", SH, "/usr/bin/make all"),
        ("RUN make all # buildkit", BUILDKIT, SH, "make all"),
        ('/bin/sh -c ["make", "all"]', BUILDAH, SH, "make all"),
        ('RUN ["make", "all"]', KANIKO, SH, "make all"),
        ('/bin/sh -c ["make", "all"]', BUILDAH, BASH, "make all"),
        # ARGs, in the order of their names
        ("|1 A=b /bin/sh -c make", "", SH, "|1 A=b /bin/sh -c make"),
        ("RUN |1 A=b /bin/sh -c make # buildkit", BUILDKIT, SH, "|1 A=b /bin/sh -c make"),
        ("|2 B=2 A=1 /bin/sh -c make", BUILDAH, SH, "|2 A=1 B=2 /bin/sh -c make"),
        ("RUN |2 B=2 A=1 /bin/sh -c make # buildkit", BUILDKIT, SH, "|2 A=1 B=2 /bin/sh -c make"),
        ("RUN |2 B=2 A=1 /bin/sh -c make", OURS, SH, "|2 A=1 B=2 /bin/sh -c make"),
        ("|1 A=b make all", "", SH, "|1 A=b make all"),
        ('|1 A=b /bin/sh -c ["make", "all"]', BUILDAH, SH, "|1 A=b make all"),
        ("|1 A=b /bin/sh -c make", BUILDAH, BASH, "|1 A=b /bin/bash -o pipefail -c make"),
        ("|1 A= /bin/sh -c make", "", SH, "|1 A= /bin/sh -c make"),
        ("|0 /bin/sh -c make", "", SH, "/bin/sh -c make"),
        # values with spaces cannot be told from what follows, but are the same wherever they are written
        ("|1 A=b c /bin/sh -c make", "", SH, "|1 A=b c /bin/sh -c make"),
        ("RUN |1 A=b c /bin/sh -c make # buildkit", BUILDKIT, SH, "|1 A=b c /bin/sh -c make"),
        ("|2 B=1 2 A=3 /bin/sh -c make", "", SH, "|2 B=1 2 A=3 /bin/sh -c make"),
    ],
)
def test_a_run_is_spelled_in_one_way(text: str, by: str, shell: tuple[str, ...], expected: str) -> None:
    assert read(text, by, shell) == run(expected)


@pytest.mark.parametrize(
    ("text", "by", "expected"),
    [
        ("/bin/sh -c #(nop) COPY file:0a1b in /app", "", Command(Kind.COPY, "file:0a1b in /app")),
        ("/bin/sh -c #(nop) COPY dir:0a1b in /app ", BUILDAH, Command(Kind.COPY, "dir:0a1b in /app")),
        ("/bin/sh -c #(nop) COPY multi:0a1b in /app/ ", BUILDAH, Command(Kind.COPY, "multi:0a1b in /app/")),
        ("/bin/sh -c #(nop) ADD file:0a1b in / ", "", Command(Kind.COPY, "file:0a1b in /")),
        ("COPY src /app # buildkit", BUILDKIT, Command(Kind.COPY, "src /app")),
        ("COPY --chown=1:1 src /app", KANIKO, Command(Kind.COPY, "--chown=1:1 src /app")),
        ("ADD https://example.com/x / # buildkit", BUILDKIT, Command(Kind.COPY, "https://example.com/x /")),
        ("/bin/sh -c #(nop) WORKDIR /app", "", Command(Kind.WORKDIR, "/app")),
        ("WORKDIR /app", BUILDKIT, Command(Kind.WORKDIR, "/app")),
        ("/bin/sh -c #(nop)  ENV A=1 B=2", "", Command(Kind.ENV, "A=1 B=2")),
        ("ENV A=1 B=2", BUILDKIT, Command(Kind.ENV, "A=1 B=2")),
        ('/bin/sh -c #(nop) ENV A="x y"', BUILDAH, Command(Kind.ENV, 'A="x y"')),
        ("/bin/sh -c #(nop)  USER nobody", "", Command(Kind.USER, "nobody")),
        ('/bin/sh -c #(nop) SHELL ["/bin/bash","-c"]', BUILDAH, Command(Kind.SHELL, '["/bin/bash","-c"]')),
        ("/bin/sh -c #(nop)  ARG VERSION=1", "", Command(Kind.ARG, "VERSION=1")),
        ('/bin/sh -c #(nop)  CMD ["sh"]', "", Command(Kind.CONFIG, '["sh"]')),
        ('CMD ["sh"]', BUILDKIT, Command(Kind.CONFIG, '["sh"]')),
        ("LABEL a=b", KANIKO, Command(Kind.CONFIG, "a=b")),
        ("EXPOSE map[80/tcp:{}]", BUILDKIT, Command(Kind.CONFIG, "map[80/tcp:{}]")),
    ],
)
def test_other_instructions(text: str, by: str, expected: Command) -> None:
    assert read(text, by) == expected


@pytest.mark.parametrize(
    ("text", "by", "shell"),
    [
        ("", "", SH),
        ("# debian.sh --arch 'amd64' out/ 'bookworm'", "debuerreotype 0.15", SH),
        ("bazel build //app:image", "", SH),
        ("jib-gradle-plugin:3.4.0", "", SH),
        # written as /bin/sh though SHELL says otherwise: by whom is not known
        ("/bin/sh -c make", "", BASH),
        # what the file or heredoc holds is not in the entry
        ("RUN /dev/pipes/EOF # buildkit", BUILDKIT, SH),
        ("RUN |1 A=1 /dev/pipes/EOF # buildkit", BUILDKIT, SH),
        ("/bin/sh -c <<EOF", BUILDAH, SH),
        ("RUN <<EOF", KANIKO, SH),
        # nor what is mounted
        ("/bin/sh -c --mount=type=bind,target=/src make", BUILDAH, SH),
        ("RUN --mount=type=bind,target=/src make", KANIKO, SH),
        ("/bin/sh -c #(nop) FETCH it", "", SH),
        ("merge sha256:0 to sha256:1", "", SH),
        ("|x A=1 make", "", SH),
    ],
)
def test_what_cannot_be_read_for_certain_is_unknown(text: str, by: str, shell: tuple[str, ...]) -> None:
    assert read(text, by, shell).kind is Kind.UNKNOWN


def test_kaniko_does_not_write_the_values_of_args() -> None:
    assert read("RUN make $VERSION", KANIKO).kind is Kind.RUN
    assert read("RUN make $VERSION", KANIKO, args=True).kind is Kind.UNKNOWN


_PIECES = st.sampled_from(
    [
        "RUN ",
        "|2 ",
        "|999 ",
        "A=1 ",
        "/bin/sh -c ",
        "#(nop) ",
        "COPY ",
        '["a"',
        "]",
        "# buildkit",
        "<<",
        "\n",
        "\0",
        "é",
    ]
)


@given(
    st.lists(_PIECES | st.text(max_size=5), max_size=8).map("".join),
    st.sampled_from(["", BUILDKIT, BUILDAH, KANIKO, OURS]),
    st.booleans(),
)
def test_nothing_makes_it_fail_and_reading_is_stable(text: str, by: str, args: bool) -> None:
    command = read(text, by, args=args)
    if command.kind is Kind.RUN and not command.text.endswith("# buildkit"):
        assert read(f"RUN {command.text}", OURS) in (command, Command(Kind.UNKNOWN))
