"""Every error a person can meet, as one tree.

    CiPluginsError
    ├── UsageError, ConfigError
    ├── DockerfileError ── DockerfileNotFound, DockerfileEmpty, DockerfileSyntaxError, UnknownInstruction,
    │                      UndefinedStage, UnsupportedInstruction, ExpansionError
    ├── ContextError ───── ContextNotFound, CopySourceNotFound, OutsideContext, ContextChanged
    ├── BuildError ─────── StepFailed, EngineUnavailable, SandboxError, UserNotFound
    ├── RegistryError ──── RegistryUnreachable, AuthenticationFailed, ImageNotFound, RegistryRejected,
    │                      RegistryUnavailable, PlatformNotAvailable
    ├── VerificationError ─ DigestMismatch, SizeMismatch, CorruptLayer
    ├── StateError ─────── DiskFull
    └── Interrupted

A class has one exit code (docs/exit-codes.md lists them), says whether trying again can help, and carries a remedy:
what the person who reads it should do next. Standard library only: every room may import this one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a text file. Lines and columns count from 1, as editors do."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class CiPluginsError(Exception):
    """Base of all. `message` says what and why, `where` the place, `excerpt` shows it, `remedy` says what next."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_remedy: ClassVar[str] = ""

    def __init__(
        self, message: str, *, remedy: str | None = None, where: Location | None = None, excerpt: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = self.default_remedy if remedy is None else remedy
        self.where = where
        self.excerpt = excerpt

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(CiPluginsError):
    """The command line cannot be understood."""

    exit_code = 2
    default_remedy = "Run the command with --help to see what it takes."


class ConfigError(CiPluginsError):
    """A configuration file or an environment variable cannot be understood."""

    exit_code = 3
    default_remedy = "Correct the named setting; docs/options.md lists all of them."


# --- Dockerfile -----------------------------------------------------------------------------------------------------


class DockerfileError(CiPluginsError):
    """The Dockerfile cannot be built as it is written."""

    exit_code = 12


class DockerfileNotFound(DockerfileError):
    exit_code = 10
    default_remedy = "Name the file with --file, or run the command in the directory that holds it."


class DockerfileEmpty(DockerfileError):
    exit_code = 11
    default_remedy = "Begin it with a FROM instruction."


class DockerfileSyntaxError(DockerfileError):
    exit_code = 12


class UnknownInstruction(DockerfileError):
    exit_code = 13


class UndefinedStage(DockerfileError):
    exit_code = 14


class UnsupportedInstruction(DockerfileError):
    """Valid in Docker, but not executed by this engine: refused by name instead of ignored."""

    exit_code = 15


class ExpansionError(DockerfileError):
    """A variable reference that cannot be expanded, e.g. ${NAME:?message} without a value."""

    exit_code = 16


# --- build context --------------------------------------------------------------------------------------------------


class ContextError(CiPluginsError):
    """The build context is not what the Dockerfile needs."""

    exit_code = 20


class ContextNotFound(ContextError):
    exit_code = 20
    default_remedy = "Give the directory of the build context as the last argument."


class CopySourceNotFound(ContextError):
    exit_code = 21
    default_remedy = "Check the path against the build context, and that .dockerignore does not exclude it."


class OutsideContext(ContextError):
    exit_code = 22
    default_remedy = "Move the file into the build context, or build from a directory that holds both."


class ContextChanged(ContextError):
    """A file changed while it was read: the layer would not be what its key says."""

    exit_code = 23
    retryable = True
    default_remedy = "Run the build again once nothing writes to the build context any more."


# --- running steps --------------------------------------------------------------------------------------------------


class BuildError(CiPluginsError):
    """A step could not be executed."""

    exit_code = 30


class StepFailed(BuildError):
    """A RUN command ended with a non-zero code."""

    exit_code = 30
    default_remedy = (
        "The output above is the command's own; correct the command and build again: finished steps are kept."
    )


class EngineUnavailable(BuildError):
    exit_code = 31


class SandboxError(BuildError):
    """Mounting or starting the container failed, not the command in it."""

    exit_code = 32


class UserNotFound(BuildError):
    exit_code = 33
    default_remedy = "Create the user or group in an earlier step, or use its numeric id."


# --- registries -----------------------------------------------------------------------------------------------------


class RegistryError(CiPluginsError):
    """A registry did not do what was asked."""

    exit_code = 43


class RegistryUnreachable(RegistryError):
    exit_code = 40
    retryable = True
    default_remedy = "Check the host name, the network, and whether the registry is plain HTTP (--insecure-registry)."


class AuthenticationFailed(RegistryError):
    exit_code = 41
    default_remedy = "Log in (docker login), or check the credentials and their rights on this repository."


class ImageNotFound(RegistryError):
    exit_code = 42
    default_remedy = "Check the name and tag of the image, and that it was pushed."


class RegistryRejected(RegistryError):
    """The registry understood and refused."""

    exit_code = 43


class RegistryUnavailable(RegistryError):
    """Overloaded or failing on its side (429, 5xx), after all retries."""

    exit_code = 44
    retryable = True
    default_remedy = "Run the build again later: what was uploaded stays and is not sent twice."


class PlatformNotAvailable(RegistryError):
    exit_code = 45
    default_remedy = "Choose a platform the image has, or another image."


# --- verification ---------------------------------------------------------------------------------------------------


class VerificationError(CiPluginsError):
    """Received bytes are not what their descriptor promises; nothing of them is used."""

    exit_code = 50
    retryable = True


class DigestMismatch(VerificationError):
    exit_code = 50
    default_remedy = "The stored blob is damaged: push the image again, or delete the blob in the registry first."


class SizeMismatch(VerificationError):
    exit_code = 51
    default_remedy = "The transfer was cut or the stored blob is truncated: try again, then push the image again."


class CorruptLayer(VerificationError):
    """The archive is not a valid or not a safe layer: bad compression, bad tar, an entry that leaves the root."""

    exit_code = 52
    retryable = False
    default_remedy = "The image was built wrongly or tampered with: do not use it; rebuild or report it to its owner."


# --- local state ----------------------------------------------------------------------------------------------------


class StateError(CiPluginsError):
    """The state directory cannot be used."""

    exit_code = 61
    default_remedy = "Check that the directory is writable, or name another one with --state."


class DiskFull(StateError):
    exit_code = 60
    default_remedy = "Free space, or move the state with --state; finished layers are kept and not built again."


class Interrupted(CiPluginsError):
    """SIGINT or SIGTERM: everything mounted is unmounted, nothing is published."""

    exit_code = 130
    default_remedy = "Run the same command again: finished steps are kept."


@contextmanager
def placed(where: Location) -> Iterator[None]:
    """Give an error that has no place yet the one of the instruction that was worked on."""
    try:
        yield
    except CiPluginsError as error:
        error.where = error.where or where
        raise


@contextmanager
def state_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Translate the OS errors of writing below the state directory: the only place that knows ENOSPC."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left while writing {os.fspath(path)}") from error
        raise StateError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error
