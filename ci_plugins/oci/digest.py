"""Digests as the OCI image spec (descriptor.md, "Digests") writes them: `sha256:<64 hex>`."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

#: A checked digest string. Only `parse_digest` and `sha256_digest` make them.
Digest = NewType("Digest", str)

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")


def parse_digest(text: str) -> Digest:
    """Check and return. sha256 only: it is what every registry stores. Raises ValueError."""
    if not _SHA256.match(text):
        raise ValueError(f"not a sha256 digest: {text!r}")
    return Digest(text)


def sha256_digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    return digest.partition(":")[2]


def chain_id(parent: Digest | None, diff_id: Digest) -> Digest:
    """ChainID of a layer on its parent chain (OCI image spec, config.md, "Layer ChainID")."""
    return diff_id if parent is None else sha256_digest(f"{parent} {diff_id}".encode())
