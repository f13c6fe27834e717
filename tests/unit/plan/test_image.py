"""What instructions do to an image config, compared with what Docker documents."""

from __future__ import annotations

from typing import Any

import pytest

from ci_plugins.dockerfile import Scope, parse_dockerfile
from ci_plugins.errors import DockerfileSyntaxError
from ci_plugins.oci import ImageConfig, Platform
from ci_plugins.plan.image import apply, scratch_config

AMD64 = Platform("linux", "amd64")


def config_after(*lines: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    config = ImageConfig(AMD64, config=base) if base is not None else scratch_config(AMD64)
    cmd_was_set = False
    for instruction in parse_dockerfile("\n".join(("FROM scratch", *lines))).stages[0].instructions:
        config = apply(instruction.expanded(Scope({})), config, cmd_was_set=cmd_was_set)
        cmd_was_set = cmd_was_set or instruction.name == "CMD"
    return dict(config.config)


def test_scratch_begins_with_the_default_path_and_root_directory() -> None:
    assert config_after() == {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
    }


def test_env_replaces_in_place_and_appends() -> None:
    assert config_after("ENV B=2 A=3", base={"Env": ["A=1", "C=0"]})["Env"] == ["A=3", "C=0", "B=2"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["WORKDIR /a"], "/a"),
        (["WORKDIR /a", "WORKDIR b"], "/a/b"),
        (["WORKDIR /a", "WORKDIR ../c/./d"], "/c/d"),
        (["WORKDIR ../../x"], "/x"),
        (["WORKDIR //a//b/"], "/a/b"),
    ],
)
def test_workdir_is_absolute_and_clean(lines: list[str], expected: str) -> None:
    assert config_after(*lines)["WorkingDir"] == expected


def test_commands_in_shell_form_go_through_the_shell_of_the_stage() -> None:
    config = config_after('SHELL ["/bin/bash", "-c"]', "CMD echo hi", 'ENTRYPOINT ["/app", "-v"]')
    assert config["Cmd"] == ["/bin/bash", "-c", "echo hi"]
    assert config["Entrypoint"] == ["/app", "-v"]


def test_an_entrypoint_drops_the_cmd_of_the_base_but_not_the_dockerfiles_own() -> None:
    assert "Cmd" not in config_after('ENTRYPOINT ["/e"]', base={"Cmd": ["sh"]})
    assert config_after('CMD ["a"]', 'ENTRYPOINT ["/e"]', base={"Cmd": ["sh"]})["Cmd"] == ["a"]


def test_labels_volumes_ports_and_the_rest() -> None:
    config = config_after(
        "LABEL a=1 b='2 3'",
        "EXPOSE 80 53/udp 8000-8002",
        "VOLUME /data /log",
        "USER app:app",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --interval=5s --retries=3 CMD curl -f localhost",
        "ONBUILD COPY . /app",
        base={"Labels": {"a": "0", "z": "9"}},
    )
    assert config == {
        "Labels": {"a": "1", "b": "2 3", "z": "9"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
        "Volumes": {"/data": {}, "/log": {}},
        "User": "app:app",
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 5_000_000_000, "Retries": 3},
        "OnBuild": ["COPY . /app"],
    } | {name: value for name, value in config.items() if name == "Env"}


def test_healthcheck_none_switches_an_inherited_one_off() -> None:
    assert config_after("HEALTHCHECK NONE", base={"Healthcheck": {"Test": ["CMD", "x"]}})["Healthcheck"] == {
        "Test": ["NONE"]
    }


def test_a_bad_port_is_named_with_its_line() -> None:
    with pytest.raises(DockerfileSyntaxError, match=r"Dockerfile:2:1: EXPOSE: .*99999"):
        config_after("EXPOSE 99999")


@pytest.mark.parametrize("signal", ["9", "SIGTERM", "quit", "SIGRTMIN+15", "RTMAX-14", "rtmin"])
def test_stop_signals_stay_as_they_are_written(signal: str) -> None:
    assert config_after(f"STOPSIGNAL {signal}")["StopSignal"] == signal


@pytest.mark.parametrize("signal", ["0", "SIGNOTHING", "RTMIN+16", "1.5"])
def test_a_bad_stop_signal_is_named_with_its_line(signal: str) -> None:
    with pytest.raises(DockerfileSyntaxError, match=r"Dockerfile:2:1: STOPSIGNAL: "):
        config_after(f"STOPSIGNAL {signal}")
