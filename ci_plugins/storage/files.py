"""Replacing small files whole: what the stores that live in directories share."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """A reader sees the old content or the new, never a part. A kill in between leaves a dot file nobody reads."""
    temporary = path.with_name(f".{os.urandom(8).hex()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
