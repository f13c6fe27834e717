"""What a step mounts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of this machine at the path `target` of the container, which is as its programs write it."""

    source: Path
    target: str
    readonly: bool
