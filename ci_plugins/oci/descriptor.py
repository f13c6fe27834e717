"""Descriptor and Platform (OCI image spec, descriptor.md and image-index.md)."""

from __future__ import annotations

import platform as host
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ci_plugins.oci.digest import Digest, parse_digest

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Platform:
    """`os/architecture[/variant]`, in Go's names."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Raises ValueError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"not a platform (os/architecture[/variant]): {text!r}")
        architecture = _MACHINES.get(parts[1], parts[1])
        variant = parts[2] if len(parts) == 3 else ""
        return cls(parts[0], architecture, "" if (architecture, variant) == ("arm64", "v8") else variant)

    @classmethod
    def of_host(cls) -> Platform:
        machine = host.machine()
        if machine.startswith("armv"):
            return cls("linux", "arm", "v" + machine[4:5])
        return cls("linux", _MACHINES.get(machine, machine))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        architecture, variant = str(value.get("architecture", "")), str(value.get("variant", ""))
        return cls(
            str(value.get("os", "")), architecture, "" if (architecture, variant) == ("arm64", "v8") else variant
        )

    def to_json(self) -> dict[str, str]:
        fields = {"architecture": self.architecture, "os": self.os}
        return {**fields, "variant": self.variant} if self.variant else fields


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Descriptor:
        """Raises ValueError for what is not a descriptor."""
        try:
            size = value["size"]
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ValueError(f"not a size: {size!r}")
            return cls(
                media_type=str(value.get("mediaType", "")),
                digest=parse_digest(str(value["digest"])),
                size=size,
                platform=Platform.from_json(value["platform"]) if value.get("platform") else None,
                annotations=dict(value.get("annotations") or {}),
                urls=tuple(value.get("urls") or ()),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a descriptor: {value!r}") from error

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.platform:
            fields["platform"] = self.platform.to_json()
        return fields
