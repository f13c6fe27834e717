"""StepKeys: digests over length-prefixed, typed fields. Never over joined strings: "ab"+"c" must not equal "a"+"bc"."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ci_plugins.cache.record import KEY_VERSION
from ci_plugins.oci import Digest, Platform

#: What a key can be made of; mappings count in the order of their names, sequences in their own.
Field: TypeAlias = "str | bytes | int | bool | Sequence[Any] | Mapping[str, Any] | None"


def fields_digest(*fields: Field) -> Digest:
    """Raises TypeError for a value that has no unambiguous encoding."""
    return Digest("sha256:" + hashlib.sha256(_encode(fields)).hexdigest())


def base_key(platform: Platform, manifest: Digest | None) -> Digest:
    """The root of a chain: a base image by the digest of its manifest, None for scratch."""
    return fields_digest("base", KEY_VERSION, str(platform), manifest)


def step_key(parent: Digest, instruction: str, *inputs: Field) -> Digest:
    """The key of a step on `parent`: its kind of instruction and every input that can change its result."""
    return fields_digest("step", KEY_VERSION, parent, instruction, inputs)


def _encode(value: Field) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return _framed(b"i", str(value).encode())
    if isinstance(value, str):
        return _framed(b"s", value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        return _framed(b"b", value)
    if isinstance(value, Mapping):
        pairs = [_encode(name) + _encode(value[name]) for name in sorted(value)]
        return _framed(b"m", b"".join(pairs))
    if isinstance(value, Sequence):
        return _framed(b"l", b"".join(_encode(item) for item in value))
    raise TypeError(f"not a field of a key: {type(value).__name__}")


def _framed(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(8, "big") + payload
