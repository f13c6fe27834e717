"""What expansion does to each instruction, and what a person is shown when it fails."""

from __future__ import annotations

from typing import TypeVar

import pytest

from ci_plugins.dockerfile import Instruction, Scope, excerpt, exposed_ports, parse_instruction, unsupported
from ci_plugins.dockerfile import instructions as typed
from ci_plugins.dockerfile.duration import parse_duration
from ci_plugins.errors import DockerfileSyntaxError, ExpansionError, Location

VARIABLES = {"A": "1", "DIR": "/srv", "PORTS": "80 443/udp", "EMPTY": "", "USERNAME": "app"}

I = TypeVar("I", bound=Instruction)  # noqa: E741


def parse(text: str, escape: str = "\\") -> Instruction:
    return parse_instruction(text, Location("Dockerfile", 10), escape)


def expand(kind: type[I], text: str) -> I:
    item = parse(text).expanded(Scope(VARIABLES))
    assert isinstance(item, kind)
    return item


def test_env_pairs_are_expanded_against_the_environment_before() -> None:
    assert expand(typed.Env, "ENV A=2 B=$A C=\"$A b\" D='$A'").pairs == (
        ("A", "2"),
        ("B", "1"),
        ("C", "1 b"),
        ("D", "$A"),
    )
    assert expand(typed.Env, 'ENV X a "b" $A').pairs == (("X", "a b 1"),)


def test_label_names_and_values() -> None:
    assert expand(typed.Label, "LABEL \"a b\"=$A x.$A='y'").pairs == (("a b", "1"), ("x.1", "y"))


def test_arg_items_see_those_before_them() -> None:
    arg = parse('ARG A B=${A}2 C="$B 3" D')
    assert isinstance(arg, typed.Arg)
    scope = Scope({})
    assert arg.resolved(scope) == (("A", None), ("B", "2"), ("C", "2 3"), ("D", None))
    assert scope.missing == {"A"}
    assert arg.resolved(Scope({}), given={"B": "given $X"}, inherited={"A": "global", "B": "no", "D": ""}) == (
        ("A", "global"),
        ("B", "given $X"),
        ("C", "given $X 3"),
        ("D", ""),
    )


def test_default_of_a_given_arg_is_not_expanded() -> None:
    arg = parse('ARG V="${NONE:?not given}"')
    assert isinstance(arg, typed.Arg)
    assert arg.resolved(Scope({}), given={"V": "x"}) == (("V", "x"),)
    with pytest.raises(ExpansionError, match="not given"):
        arg.resolved(Scope({}))


def test_copy_and_add() -> None:
    copy = expand(typed.Copy, "COPY --from=a --chown=$USERNAME:$USERNAME --chmod=$A --exclude=$A $DIR/x 'a'$A $DIR/")
    assert (copy.from_, copy.chown, copy.chmod, copy.exclude) == ("a", "app:app", "1", ("$A",))
    assert (copy.sources, copy.destination) == (("/srv/x", "a1"), "/srv/")
    copy = expand(typed.Copy, 'COPY ["a b$A", "$DIR"]')
    assert (copy.sources, copy.destination) == (("a b1",), "/srv")
    add = expand(typed.Add, "ADD --checksum=sha256:$A https://x/$A $DIR")
    assert (add.checksum, add.sources, add.destination) == ("sha256:1", ("https://x/1",), "/srv")


def test_heredoc_of_copy_is_expanded_unless_quoted() -> None:
    copy = expand(typed.Copy, 'COPY <<a <<\'b\' /d/\n"$A" \\$A\na\n"$A"\nb')
    assert [document.content for document in copy.heredocs] == ['"1" $A\n', '"$A"\n']


def test_one_word_each() -> None:
    assert expand(typed.Workdir, "WORKDIR $DIR/a b").path == "/srv/a b"
    assert expand(typed.User, "USER $USERNAME:${A}").user == "app:1"
    assert expand(typed.StopSignal, "STOPSIGNAL SIG$A").signal == "SIG1"
    assert expand(typed.Volume, 'VOLUME ["$DIR", "/b c"]').paths == ("/srv", "/b c")
    base = expand(typed.From, "FROM --platform=linux/$USERNAME x:${A} AS n")
    assert (base.image, base.platform, base.alias) == ("x:1", "linux/app", "n")


def test_expose_splits_what_comes_out_of_a_variable() -> None:
    assert expand(typed.Expose, "EXPOSE 22 $PORTS").ports == ("22", "80", "443/udp")


def test_run_mount_values_are_expanded_and_the_command_is_not() -> None:
    run = expand(typed.Run, "RUN --mount=type=cache,target=$DIR/c,id=$A echo $A")
    assert run.mounts[0].options == (("type", "cache"), ("target", "/srv/c"), ("id", "1"))
    assert run.command == typed.ShellForm("echo $A")


@pytest.mark.parametrize(
    "text",
    [
        "RUN echo $A",
        "CMD echo $A",
        'CMD ["$A"]',
        "ENTRYPOINT $A",
        'SHELL ["$A"]',
        "HEALTHCHECK CMD $A",
        "MAINTAINER $A",
    ],
)
def test_left_to_the_container(text: str) -> None:
    item = parse(text)
    assert item.expanded(Scope(VARIABLES)) == item


def test_onbuild_is_expanded_when_triggered() -> None:
    item = parse("ONBUILD COPY $A /x")
    assert isinstance(item, typed.Onbuild)
    assert item.expanded(Scope(VARIABLES)).text == "COPY $A /x"
    trigger = parse_instruction(item.text, Location("ONBUILD of base", 1)).expanded(Scope(VARIABLES))
    assert isinstance(trigger, typed.Copy)
    assert trigger.sources == ("1",)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("RUN a && b", "a && b"),
        ("RUN <<EOF\na\nb\nEOF", "a\nb\n"),
        ("RUN <<-EOF\n\ta\n\tEOF", "a\n"),
        ("RUN cat <<A <<B\n1\nA\n2\nB", "cat <<A <<B\n1\nA\n2\nB"),
    ],
)
def test_script_for_the_shell(text: str, script: str) -> None:
    run = parse(text)
    assert isinstance(run, typed.Run)
    assert isinstance(run.command, typed.ShellForm)
    assert run.command.script == script
    assert run.command.executable is None


def test_document_with_a_shebang_is_a_file() -> None:
    run = parse("RUN <<EOF\n#!/bin/awk -f\nEOF")
    assert isinstance(run, typed.Run)
    assert isinstance(run.command, typed.ShellForm)
    assert run.command.executable == typed.Heredoc("EOF", "#!/bin/awk -f\n")


def test_healthcheck_test() -> None:
    tests = [parse(f"HEALTHCHECK {rest}") for rest in ("NONE", "CMD a b", 'CMD ["a", "b"]')]
    assert [item.test for item in tests if isinstance(item, typed.Healthcheck)] == [
        ("NONE",),
        ("CMD-SHELL", "a b"),
        ("CMD", "a", "b"),
    ]


def test_expansion_error_shows_its_place() -> None:
    item = parse_instruction('ENV A=1 \\\n    B="${NONE:?give it}"', Location("Dockerfile", 4, 3))
    with pytest.raises(ExpansionError) as caught:
        item.expanded(Scope({}))
    assert str(caught.value.where) == "Dockerfile:5:7"
    assert "NONE: give it" in caught.value.message
    assert caught.value.excerpt == '4 |   ENV A=1 \\\n5 |     B="${NONE:?give it}"\n  |       ^'


@pytest.mark.parametrize("text", ["FROM $EMPTY", "FROM ${NONE}", "FROM --platform=$NONE x", "VOLUME $EMPTY"])
def test_empty_after_expansion(text: str) -> None:
    with pytest.raises(ExpansionError, match="is empty once"):
        parse(text).expanded(Scope(VARIABLES))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RUN --mount=type=tmpfs,target=/x y", "RUN --mount=type=tmpfs"),
        ("RUN --mount=type=cache,target=/x,source=/y y", "RUN --mount=type=cache with source= and without from="),
        ("RUN --mount=target=/x y", "RUN --mount=type=bind"),
        ("RUN --security=insecure y", "RUN --security=insecure"),
        ("RUN --device=gpu y", "RUN --device"),
        ("RUN --security=sandbox --network=host y", None),
        ("ADD --checksum=sha256:aa x /y", "ADD --checksum"),
        ("ADD --keep-git-dir x /y", "ADD --keep-git-dir"),
        ("ADD HTTPS://example.org/x /y", "ADD of a URL or git repository (HTTPS://example.org/x)"),
        ("ADD a git@github.com:o/r.git /y", "ADD of a URL or git repository (git@github.com:o/r.git)"),
        ("ADD x.tar y/git@z /y", None),
        ("COPY --link --parents --exclude=a x /y", None),
        ("CMD x", None),
    ],
)
def test_unsupported(text: str, name: str | None) -> None:
    assert unsupported(parse(text)) == name


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1s", 10**9), ("1h2m3s", 3723 * 10**9), ("1.5s", 1_500_000_000), (".5ms", 500_000), ("0", 0), ("-1us", -1000)],
)
def test_duration(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", "1 s", "1d", "1s2", "+-1s", "9999999999h", "1e3s", "1" * 100 + "s"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["--interval=-5s", "--interval=1us", "--retries=3000000000", "--timeout=5"])
def test_healthcheck_limits(text: str) -> None:
    with pytest.raises(DockerfileSyntaxError):
        parse(f"HEALTHCHECK {text} CMD x")


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        ("80", ("80/tcp",)),
        ("53/UDP", ("53/udp",)),
        ("8000-8002/sctp", ("8000/sctp", "8001/sctp", "8002/sctp")),
        ("127.0.0.1:8080:80", ("80/tcp",)),
    ],
)
def test_exposed_ports(spec: str, ports: tuple[str, ...]) -> None:
    assert exposed_ports(spec) == ports


@pytest.mark.parametrize("spec", ["", "http", "0", "70000", "90-80", "80/", "80/icmp", "8 0"])
def test_not_a_port(spec: str) -> None:
    with pytest.raises(ValueError, match="not a port"):
        exposed_ports(spec)


def test_excerpt() -> None:
    text = "one\ntwo\n\tthree\nfour\nfive\n"
    assert excerpt(text, Location("f", 3, 2)) == "1 | one\n2 | two\n3 | \tthree\n  | \t^\n4 | four"
    assert excerpt(text, Location("f", 1)) == "1 | one\n  | ^\n2 | two"
    assert excerpt("x\n" * 12, Location("f", 10), before=1, after=0) == " 9 | x\n10 | x\n   | ^"
    assert excerpt("x", Location("f", 9)) == ""
