"""ImageConfig (OCI image spec, config.md, with Docker's additions). Immutable; `raw` fields that are not known here
(Docker writes several) are kept as they came."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ci_plugins.oci import media
from ci_plugins.oci.descriptor import Descriptor, Platform
from ci_plugins.oci.digest import Digest, chain_id, parse_digest, sha256_digest


@dataclass(frozen=True, slots=True)
class History:
    """One entry of the config's history; `empty_layer` for a step that wrote no layer."""

    created_by: str
    created: str = ""
    comment: str = ""
    empty_layer: bool = False
    author: str = ""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name in ("created", "author", "created_by", "comment"):
            if text := getattr(self, name):
                value[name] = text
        return {**value, "empty_layer": True} if self.empty_layer else value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> History:
        return cls(
            created_by=str(value.get("created_by", "")),
            created=str(value.get("created", "")),
            comment=str(value.get("comment", "")),
            empty_layer=bool(value.get("empty_layer", False)),
            author=str(value.get("author", "")),
        )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container of this image runs with, and the layers it stands on.

    `config` is the execution part exactly as in the JSON document ("Env", "Cmd", "Entrypoint", "User", "WorkingDir",
    "Labels", "ExposedPorts", "Volumes", "StopSignal", "Healthcheck", "Shell", "OnBuild"); `extra` holds all
    top-level fields that have no attribute here.
    """

    platform: Platform
    config: Mapping[str, Any] = field(default_factory=dict)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, raw: bytes) -> ImageConfig:
        """Raises ValueError."""
        value = json.loads(raw)
        if not isinstance(value, dict):
            raise ValueError("not an image config")
        known = {"architecture", "os", "variant", "config", "rootfs", "history", "created", "author"}
        rootfs = value.get("rootfs") or {}
        return cls(
            platform=Platform.from_json(value),
            config=MappingProxyType(dict(value.get("config") or {})),
            diff_ids=tuple(parse_digest(item) for item in rootfs.get("diff_ids") or ()),
            history=tuple(History.from_json(item) for item in value.get("history") or ()),
            created=str(value.get("created") or ""),
            author=str(value.get("author") or ""),
            extra=MappingProxyType({key: item for key, item in value.items() if key not in known}),
        )

    def to_bytes(self) -> bytes:
        value: dict[str, Any] = {**self.platform.to_json()}
        if self.created:
            value["created"] = self.created
        if self.author:
            value["author"] = self.author
        value["config"] = dict(self.config)
        value["rootfs"] = {"type": "layers", "diff_ids": list(self.diff_ids)}
        value["history"] = [item.to_json() for item in self.history]
        value.update(self.extra)
        return json.dumps(value, separators=(",", ":")).encode()

    def descriptor(self) -> Descriptor:
        raw = self.to_bytes()
        return Descriptor(media.OCI_CONFIG, sha256_digest(raw), len(raw))

    def chain_ids(self) -> tuple[Digest, ...]:
        """The ChainID of every layer, lowest first."""
        chain: list[Digest] = []
        for diff_id in self.diff_ids:
            chain.append(chain_id(chain[-1] if chain else None, diff_id))
        return tuple(chain)

    # -- reading the execution part ---------------------------------------------------------------------------------

    def env(self) -> dict[str, str]:
        """Environment in its order; a later entry of the same name wins."""
        pairs = (item.partition("=") for item in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def user(self) -> str:
        return str(self.config.get("User") or "")

    @property
    def working_dir(self) -> str:
        return str(self.config.get("WorkingDir") or "") or "/"

    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.get("Shell") or ("/bin/sh", "-c"))

    # -- deriving a new one -----------------------------------------------------------------------------------------

    def with_config(self, **changes: Any) -> ImageConfig:
        """Replace execution fields by their JSON names; None removes one."""
        merged = {**copy.deepcopy(dict(self.config)), **changes}
        return replace(self, config=MappingProxyType({k: v for k, v in merged.items() if v is not None}))

    def with_env(self, values: Mapping[str, str]) -> ImageConfig:
        return self.with_config(Env=[f"{name}={value}" for name, value in {**self.env(), **values}.items()])

    def with_history(self, entry: History, diff_id: Digest | None = None) -> ImageConfig:
        """One more step: with a layer if it has a DiffID."""
        layers = self.diff_ids if diff_id is None else (*self.diff_ids, diff_id)
        return replace(self, history=(*self.history, entry), diff_ids=layers)
