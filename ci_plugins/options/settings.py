"""What a command was asked to do: typed, checked, frozen. Made by `parse`; every other room takes these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ci_plugins.oci import Platform, Reference


@dataclass(frozen=True, slots=True)
class Output:
    """Where else the image goes, `--output oci:DIR`: an OCI image layout in the directory `path`."""

    format: Literal["oci"]
    path: Path

    def __str__(self) -> str:
        return f"{self.format}:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """`ci-plugins build`. The fields are the options of `declared.py`, by their `field` names.

    Mappings keep the order in which they were given. `build_args` holds resolved values: a NAME given alone has
    taken its value from the environment, or is absent where the environment has none (as in docker build).
    Values that may be credentials stay out of the repr.
    """

    context: Path
    #: None: `Dockerfile` in the context
    file: Path | None
    tags: tuple[Reference, ...]
    build_args: Mapping[str, str] = field(repr=False)
    #: empty: the last stage
    target: str
    labels: Mapping[str, str]
    #: None: the host's
    platform: Platform | None
    no_cache: bool
    push: bool
    outputs: tuple[Output, ...]
    network: Literal["host", "none"]
    iidfile: Path | None
    metadata_file: Path | None
    progress: Literal["auto", "tty", "plain"]
    quiet: bool
    report_dir: Path | None
    #: URL of the shared index, "auto" or "off"
    cache: str
    cache_scope: str
    cache_read: tuple[str, ...]
    #: no option: where `cache_scope` and, unless it is "default", `cache_read` were given, for people
    scope_origin: str = field(default="default", compare=False)
    prefer: Literal["auto", "pull", "rebuild"]
    #: reuse RUN steps of images built elsewhere
    trust_foreign: bool
    compression: Literal["gzip", "zstd"]
    #: None: the compressor's own default
    compression_level: int | None
    #: what RUN --mount=type=cache finds: nothing, what this machine has, what any runner saved
    cache_mounts: Literal["off", "local", "shared"]
    #: bytes of one mount
    cache_mounts_max_size: int
    #: days without use
    cache_mounts_expire: int
    state: Path
    #: hosts with their ports, spoken to in plain HTTP
    insecure_registries: tuple[str, ...]
    #: bytes
    memory_budget: int
    ca_certificates: Path | None
    run_env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """`ci-plugins plan`: of what would be built, options that a plan does not depend on have their defaults."""

    build: BuildOptions
    json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """`ci-plugins cache ACTION`. Fields of other actions are None."""

    action: Literal["tree", "why", "prune", "verify"]
    #: URL of a cache; "auto" or "off": the index in `state`
    cache: str
    state: Path
    insecure_registries: tuple[str, ...]
    json: bool
    #: why: an image's name, a key or the beginning of one
    subject: str | None = None
    #: prune: seconds
    older_than: int | None = None
    #: prune: bytes
    max_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """`ci-plugins cache index`."""

    #: "host/name" of repositories, or with `whole_registry` hosts
    repositories: tuple[str, ...]
    whole_registry: bool
    #: URL of a cache; "auto" or "off": the index in `state`
    cache: str
    state: Path
    insecure_registries: tuple[str, ...]
    json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """`ci-plugins serve`."""

    root: Path
    host: str
    #: 0: any free port
    port: int
    quiet: bool


Settings = BuildOptions | PlanOptions | CacheOptions | IndexOptions | ServeOptions
