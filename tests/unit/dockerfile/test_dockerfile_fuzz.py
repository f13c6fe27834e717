"""Whatever stands in a Dockerfile, it is parsed or refused with a DockerfileError, and each instruction's source
parses to the same instruction again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.dockerfile import Instruction, Scope, parse_dockerfile, parse_instruction
from ci_plugins.dockerfile.convert import KEYWORDS
from ci_plugins.errors import DockerfileError, ExpansionError

words = st.sampled_from(
    [
        "debian", "AS", "a", "b=c", "$X", "${X:-y}", "=", "80/tcp", "CMD", "NONE",
        "--from=a", "--link", "--mount=type=cache,target=/x", "--chown=a:b", "--platform=$P", "--interval=1s", "--",
        '["a", "b"]', "[", '["a", 1]', '"q', "'q r'", "\\", "`", "#",
        "<<EOF", "<<-'E F'", "EOF",
        "\t", "\x85", "\xa0", "\x1c", "ü", "\0", "\\\n", "\\\r\n", "\\\n# c\n",
    ]
)  # fmt: skip
instructions = st.builds(
    lambda keyword, rest, glue: glue.join([keyword, *rest]),
    st.sampled_from([*KEYWORDS, "ONBUILD RUN", "ONBUILD COPY", "from", "#", "# escape=`", "\\", ""]),
    st.lists(words, max_size=5),
    st.sampled_from([" ", "  ", "\t", " \\\n", " \\\r\n  "]),
)
bodies = st.sampled_from(["EOF", "\tEOF", "E F", "text $X", "", "# comment", "\ttabbed"])
dockerfiles = st.builds(
    lambda start, lines, newline: start + newline.join(["FROM debian", *lines]),
    st.sampled_from(["", "\ufeff", "# escape=`\n", "# escape=\\\n# syntax=x\n", "ARG A=1\n", "\n\n"]),
    st.lists(st.one_of(instructions, bodies), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)


def check(text: str) -> None:
    try:
        dockerfile = parse_dockerfile(text, "Dockerfile")
    except DockerfileError as error:
        check_refusal(error, 1, text.count("\n") + 1)
        return
    lines = dockerfile.text.split("\n")
    previous = 0
    for item in (
        *dockerfile.global_args,
        *(item for stage in dockerfile.stages for item in (stage.from_, *stage.instructions)),
    ):
        assert previous < item.location.line <= item.end_line <= len(lines)
        previous = item.end_line
        there = "\n".join(lines[item.location.line - 1 : item.end_line])
        assert there[item.location.column - 1 :].rstrip("\r\n") == item.source
        assert parse_instruction(item.source, item.location, item.escape) == item
        expand(item)


def check_refusal(error: DockerfileError, first_line: int, last_line: int) -> None:
    assert error.message
    assert error.where is not None
    assert first_line <= error.where.line <= last_line
    error.excerpt.encode()


def expand(item: Instruction) -> None:
    try:
        expanded = item.expanded(Scope({"X": "x y"}))
    except ExpansionError as error:
        check_refusal(error, item.location.line, item.end_line)
    else:
        assert type(expanded) is type(item)
        assert expanded.source == item.source


@given(dockerfiles)
@settings(max_examples=400, deadline=None)
def test_anything_like_a_dockerfile(text: str) -> None:
    check(text)


@given(st.text(st.characters(exclude_categories=[]), max_size=200))
@settings(deadline=None)
def test_any_text(text: str) -> None:
    check(text)
    check("FROM a\n" + text)


@given(st.sampled_from(["[", '["a",', "${A:-", "(", '{"a":', "'", '"', "\\", "<<A "]), st.sampled_from(KEYWORDS))
@settings(deadline=None, max_examples=60)
def test_deep_nesting(piece: str, keyword: str) -> None:
    check(f"FROM a\n{keyword} {piece * 3000}\n")
