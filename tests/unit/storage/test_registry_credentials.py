from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ci_plugins.errors import ConfigError
from ci_plugins.storage.registry import credentials as module
from ci_plugins.storage.registry.credentials import Credentials, DockerConfig, ask_helper, config_keys

HUB = "https://index.docker.io/v1/"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(folder: Path, value: Any) -> DockerConfig:
    (folder / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return DockerConfig.load(folder)


@pytest.mark.parametrize(
    ("entry", "username", "password", "identity_token"),
    [
        ({"auth": encoded("me:pass")}, "me", "pass", ""),
        ({"auth": encoded("me:pa:ss")}, "me", "pa:ss", ""),
        ({"auth": encoded("me:pass\0\0")}, "me", "pass", ""),
        ({"username": "me", "password": "pass"}, "me", "pass", ""),
        ({"auth": encoded("me:new"), "username": "old", "password": "old"}, "me", "new", ""),
        ({"auth": encoded("00000000-0000:"), "identitytoken": "tok"}, "00000000-0000", "", "tok"),
        ({"identitytoken": "tok"}, "", "", "tok"),
    ],
)
def test_entries(tmp_path: Path, entry: Any, username: str, password: str, identity_token: str) -> None:
    found = config(tmp_path, {"auths": {"registry.example:5000": entry}}).find("registry.example:5000")
    assert (found.username, found.password, found.identity_token) == (username, password, identity_token)
    assert found.source == str(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["r.example", "https://r.example", "http://r.example", "https://r.example/v1/"])
def test_keys_may_be_addresses(tmp_path: Path, key: str) -> None:
    assert config(tmp_path, {"auths": {key: {"auth": encoded("me:pass")}}}).find("r.example").username == "me"


@pytest.mark.parametrize("key", [HUB, "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(tmp_path: Path, key: str) -> None:
    assert config(tmp_path, {"auths": {key: {"auth": encoded("me:pass")}}}).find("docker.io").username == "me"


def test_the_historic_key_comes_first() -> None:
    assert config_keys("docker.io")[0] == HUB


def test_another_registry_gets_nothing(tmp_path: Path) -> None:
    docker = config(tmp_path, {"auths": {"r.example": {"auth": encoded("me:pass")}}})
    for other in ("r.example:5000", "example", "x.r.example", "docker.io"):
        found = docker.find(other)
        assert found.anonymous
        assert other in str(found)
        assert "config.json" in str(found)


def test_no_file_no_credentials(tmp_path: Path) -> None:
    assert DockerConfig.load(tmp_path / "missing").find("docker.io").anonymous


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DockerConfig.default().path == tmp_path / ".docker" / "config.json"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
    assert DockerConfig.default().path == tmp_path / "other" / "config.json"


@pytest.mark.parametrize("value", ["{", "[]", {"auths": ["x"]}, {"credsStore": ["x"]}, {"credHelpers": "x"}])
def test_a_broken_file_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        config(tmp_path, value)


@pytest.mark.parametrize("entry", [{"auth": "***"}, {"auth": encoded("no colon")}, "text"])
def test_a_broken_entry_is_named_when_it_is_needed(tmp_path: Path, entry: Any) -> None:
    docker = config(tmp_path, {"auths": {"r.example": entry}})
    assert docker.find("other.example").anonymous
    with pytest.raises(ConfigError, match=r"r\.example"):
        docker.find("r.example")


def test_helpers_come_before_the_store_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def helper(name: str, server: str) -> Credentials:
        asked.append((name, server))
        known = {("special", "r.example"), ("general", HUB)}
        return Credentials(name, "helped", "x") if (name, server) in known else Credentials(f"{name} has none")

    monkeypatch.setattr(module, "ask_helper", helper)
    docker = config(
        tmp_path,
        {
            "credHelpers": {"r.example": "special"},
            "credsStore": "general",
            "auths": {"r.example": {"auth": encoded("filed:x")}, "s.example": {"auth": encoded("filed:x")}},
        },
    )
    assert docker.find("r.example").username == "helped"
    assert docker.find("docker.io").username == "helped"
    assert asked == [("special", "r.example"), ("general", HUB)]
    assert docker.find("s.example").username == "filed", "a store that has none leaves it to the file"
    assert "general has none" in str(docker.find("t.example"))


@pytest.mark.parametrize("name", ["../evil", "a/b", ""])
def test_a_helper_is_a_name_not_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="credential helper"):
        ask_helper(name, "r.example")


def test_secrets_are_not_shown() -> None:
    one = Credentials("a file", "me", "hidden-1", "hidden-2")
    assert "hidden" not in repr(one) + str(one)
    assert str(one) == "me (from a file)"
