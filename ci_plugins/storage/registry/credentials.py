"""Who to be at a registry: what `docker login` left in `config.json`, and credential helpers.

Read as Docker reads it (docker/cli, cli/config): `credHelpers` before `credsStore` before `auths`. Nothing is looked
up before a registry asks, and a helper that does not work is no error as long as nobody asks.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ci_plugins.errors import ConfigError

#: the user name that says "the password is an identity token" (docker-credential-helpers)
_TOKEN_USER = "<token>"
_HELPER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, or an identity (refresh) token; none of them: anonymous.

    `source` says for people where they are from; secrets never appear in `repr` or `str`.
    """

    source: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def anonymous(self) -> bool:
        return not (self.username or self.identity_token)

    def __str__(self) -> str:
        if self.anonymous:
            return self.source
        return f"{self.username or 'the holder of an identity token'} (from {self.source})"


class CredentialStore(Protocol):
    """Gives the credentials for a registry (`host[:port]`, "docker.io"). May be called from any thread."""

    def find(self, registry: str) -> Credentials: ...


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """The credentials part of Docker's configuration file."""

    path: Path
    auths: Mapping[str, Any]
    helpers: Mapping[str, str]
    store: str = ""

    @classmethod
    def default(cls) -> DockerConfig:
        """From $DOCKER_CONFIG, else ~/.docker. Raises ConfigError."""
        directory = os.environ.get("DOCKER_CONFIG")
        return cls.load(Path(directory) if directory else Path(os.path.expanduser("~")) / ".docker")

    @classmethod
    def load(cls, directory: Path) -> DockerConfig:
        """From `config.json` in a directory; a missing file is an empty one. Raises ConfigError."""
        path = directory / "config.json"
        try:
            value = json.loads(path.read_bytes() or b"{}")
        except (FileNotFoundError, NotADirectoryError):
            value = {}
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{path} does not hold a JSON object")
        auths, helpers, store = value.get("auths") or {}, value.get("credHelpers") or {}, value.get("credsStore") or ""
        if not isinstance(auths, dict) or not isinstance(helpers, dict) or not isinstance(store, str):
            raise ConfigError(f"{path}: auths and credHelpers are objects, credsStore is a string")
        return cls(path, auths, helpers, store)

    def find(self, registry: str) -> Credentials:
        """Raises ConfigError for an entry that cannot be read."""
        keys = config_keys(registry)
        helper = next((str(self.helpers[key]) for key in keys if key in self.helpers), self.store)
        trouble = ""
        if helper:
            for key in keys:
                found = ask_helper(helper, key)
                if not found.anonymous:
                    return found
                trouble = trouble or found.source
        by_host = {_host(key): entry for key, entry in reversed(list(self.auths.items()))}
        for key in keys:
            entry = self.auths.get(key) or by_host.get(_host(key))
            if entry and not (credentials := self._entry(key, entry)).anonymous:
                return credentials
        return Credentials(f"no credentials ({trouble or f'none for {registry} in {self.path}'})")

    def _entry(self, key: str, entry: Any) -> Credentials:
        if not isinstance(entry, dict):
            raise ConfigError(f"{self.path}: the entry of {key} is not an object")
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if encoded := entry.get("auth"):
            try:
                username, colon, password = base64.b64decode(str(encoded), validate=True).decode().partition(":")
            except (binascii.Error, ValueError) as error:
                raise ConfigError(f"{self.path}: the auth of {key} is not base64 of user:password") from error
            if not colon:
                raise ConfigError(f"{self.path}: the auth of {key} is not base64 of user:password")
        # Docker itself cuts trailing NULs: an old version padded with them.
        return Credentials(str(self.path), username, password.rstrip("\0"), str(entry.get("identitytoken") or ""))


def config_keys(registry: str) -> tuple[str, ...]:
    """The names a registry may have in the file, the usual one first."""
    if registry in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        return ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")
    return (registry, f"https://{registry}", f"http://{registry}")


def ask_helper(name: str, server: str) -> Credentials:
    """Run `docker-credential-<name> get`. Without an answer: anonymous, and `source` says why."""
    program = f"docker-credential-{name}"
    if "/" in name or not name:
        raise ConfigError(f"not the name of a credential helper: {name!r}")
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        return Credentials(f"{program} is not installed")
    except OSError as error:
        return Credentials(f"{program} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Credentials(f"{program} did not answer within {_HELPER_SECONDS} s")
    if done.returncode != 0:
        # Helpers explain themselves on stdout. One line of it is enough, and never what they print on success.
        why = (done.stdout or done.stderr).decode(errors="replace").strip().splitlines()
        return Credentials(f"{program}: {why[0][:200] if why else f'exit code {done.returncode}'}")
    try:
        value = json.loads(done.stdout)
        username, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError):
        return Credentials(f"{program} did not answer with a user name and a secret")
    if username == _TOKEN_USER:
        return Credentials(program, identity_token=secret)
    return Credentials(program, username, secret)


def _host(key: str) -> str:
    """The host of a key: old entries are URLs, some with a path ("https://host/v1/")."""
    without_scheme = key.partition("://")[2] if "://" in key else key
    return without_scheme.partition("/")[0]
