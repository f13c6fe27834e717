"""What a Dockerfile says about one cache mount (Dockerfile reference, "RUN --mount=type=cache")."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ci_plugins.dockerfile.instructions import Mount
from ci_plugins.errors import DockerfileSyntaxError, Location
from ci_plugins.layer.entry import Item
from ci_plugins.oci import Digest, sha256_digest

Sharing = Literal["shared", "private", "locked"]

_SHARINGS: dict[str, Sharing] = {"shared": "shared", "private": "private", "locked": "locked"}
_YES = ("1", "t", "true")
_NO = ("0", "f", "false")
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One cache mount, everything resolved.

    `target` is where the container sees it, absolute. `origin` names the stage or image that a new mount is filled
    from (a StepKey or a manifest's digest), `source` the directory there, "" for its root. `mode`, `uid` and `gid` are
    the mount's own directory's; where `origin` is set and they are not, None: those of the directory it comes from.
    """

    target: str
    id: str
    sharing: Sharing = "shared"
    readonly: bool = False
    mode: int | None = 0o755
    uid: int | None = 0
    gid: int | None = 0
    source: str = ""
    origin: Digest | None = None

    @property
    def key(self) -> Digest:
        """Names the directory: mounts of the same key share it. As in BuildKit, what it begins with is part of it."""
        fields = [1, self.id, self.origin, self.source, self.mode, self.uid, self.gid]
        return sha256_digest(json.dumps(fields).encode())

    def fields(self) -> tuple[str | int | bool | None, ...]:
        """All of it, for the key of the step; what is in the mount is no input."""
        return (
            self.target,
            self.id,
            self.sharing,
            self.readonly,
            self.mode,
            self.uid,
            self.gid,
            self.source,
            self.origin,
        )


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A mount that a step is about to use; `seed` gives what a new one is filled with, paths relative to it."""

    spec: MountSpec
    seed: Callable[[], Iterable[Item]] | None = None


def mount_spec(mount: Mount, working_dir: str, origin: Digest | None, where: Location) -> MountSpec:
    """Read an expanded `--mount=type=cache`. Raises DockerfileSyntaxError."""
    options = _Options(mount, where)
    written = mount.get("target")
    if not written:
        raise options.error("has no target", "Add target=PATH: where the command sees the directory.")
    target = posixpath.normpath(posixpath.join("/", working_dir, written))
    target = "/" + target.lstrip("/")
    if target == "/":
        raise options.error("cannot be mounted on the root directory", "Name a directory below it as target.")
    absent = (None, None, None) if origin else (0o755, 0, 0)
    return MountSpec(
        target=target,
        id=mount.get("id") or posixpath.normpath(written),
        sharing=options.sharing(),
        readonly=options.readonly(),
        mode=options.number("mode", 8, 0o7777, absent[0]),
        uid=options.number("uid", 10, _MAX_ID, absent[1]),
        gid=options.number("gid", 10, _MAX_ID, absent[2]),
        source=posixpath.normpath(posixpath.join("/", mount.get("source"))).lstrip("/") if origin else "",
        origin=origin,
    )


class _Options:
    def __init__(self, mount: Mount, where: Location) -> None:
        self._mount, self._where = mount, where

    def error(self, message: str, remedy: str = "") -> DockerfileSyntaxError:
        return DockerfileSyntaxError(f"a mount of type cache {message}", where=self._where, remedy=remedy)

    def sharing(self) -> Sharing:
        written = self._mount.get("sharing") or "shared"
        if (known := _SHARINGS.get(written.lower())) is None:
            raise self.error(f"cannot have sharing={written}", f"It is one of {', '.join(_SHARINGS)}.")
        return known

    def readonly(self) -> bool:
        """The last of `ro` and `rw` counts."""
        readonly = False
        for name, value in self._mount.options:
            if name in ("readonly", "readwrite"):
                if value.lower() not in (*_YES, *_NO):
                    raise self.error(f"cannot have {name}={value}", "It is true or false.")
                readonly = (value.lower() in _YES) == (name == "readonly")
        return readonly

    def number(self, name: str, base: int, most: int, absent: int | None) -> int | None:
        written = self._mount.get(name)
        if not written:
            return absent
        digits = "01234567" if base == 8 else "0123456789"
        if set(written) - set(digits) or (value := int(written, base)) > most:
            kind = "an octal file mode" if base == 8 else "a numeric id"
            raise self.error(f"cannot have {name}={written}", f"It is {kind}.")
        return value
