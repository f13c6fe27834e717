"""The fields of tar headers: numbers, texts, PAX records. Everything that is wrong raises CorruptLayer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.names import belongs_in_layer

Pax = dict[str, bytes]

_NONE: Mapping[str, bytes] = MappingProxyType({})
_XATTR = "SCHILY.xattr."
_SECOND = 1_000_000_000
#: Times beyond (the year 2242) do not fit in 64 bits of nanoseconds and are moved to the border.
_MAX_TIME = 1 << 33
_PAX_0_0 = ("GNU.sparse.offset", "GNU.sparse.numbytes")


def text(field: bytes) -> str:
    """A name field: up to the first NUL."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


@lru_cache(maxsize=8192)
def number(field: bytes) -> int:
    """A number field: octal digits, or base 256 where its first bit is set (GNU)."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise CorruptLayer(f"the archive has {field!r} in place of a number")


def nanoseconds(seconds: int, fraction: int = 0) -> int:
    """A modification time as `Entry.mtime_ns`."""
    return max(-_MAX_TIME, min(seconds, _MAX_TIME)) * _SECOND + fraction


def pax_records(data: bytes) -> Pax:
    """The records of a PAX header: `length keyword=value newline`, the length counting itself."""
    records: Pax = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space]
        if space < 0 or not length.isdigit():
            raise _bad_record(data, at)
        end = at + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space or not equals or not key or data[end - 1] != 0x0A:
            raise _bad_record(data, at)
        at = end
        name = key.decode("utf-8", "surrogateescape")
        if name in _PAX_0_0:
            sparse.append(value)
        elif value or name.startswith(_XATTR):
            # An empty value means: as in the ustar header.
            records[name] = value
    if sparse:
        records["GNU.sparse.map"] = b",".join(sparse)
    return records


def _bad_record(data: bytes, at: int) -> CorruptLayer:
    return CorruptLayer(f"the archive has a PAX record that is none: {data[at : at + 40]!r}")


def pax_text(pax: Pax, key: str, default: str) -> str:
    value = pax.get(key)
    if value is None:
        return default
    if b"\0" in value:
        raise CorruptLayer(f"the archive has a PAX record {key} with a NUL byte: {value[:80]!r}")
    return value.decode("utf-8", "surrogateescape")


def pax_number(pax: Pax, key: str, default: int) -> int:
    value = pax.get(key)
    return default if value is None else decimal(value)


def decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise CorruptLayer(f"the archive has {digits[:40]!r} in place of a number")
    return int(digits)


def pax_time(pax: Pax, default: int) -> int:
    """`mtime` in nanoseconds: decimal seconds, perhaps negative, perhaps with a fraction."""
    value = pax.get("mtime")
    if value is None:
        return default
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    seconds = decimal(whole[negative:])
    nanos = decimal(fraction[:9].ljust(9, b"0")) if fraction else 0
    return nanoseconds(-seconds, -nanos) if negative else nanoseconds(seconds, nanos)


def pax_xattrs(pax: Pax) -> Mapping[str, bytes]:
    """Extended attributes, without those that do not belong in a layer."""
    found = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
    kept = {name: value for name, value in found.items() if name and "\0" not in name and belongs_in_layer(name)}
    return MappingProxyType(kept) if kept else _NONE
