"""Port specs of EXPOSE: `80`, `53/udp`, `8000-8010/tcp`, `[ip:]host:container`."""

from __future__ import annotations

import re
from typing import Final

_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PROTOCOLS: Final = ("tcp", "udp", "sctp")


def exposed_ports(spec: str) -> tuple[str, ...]:
    """The keys of the image config's ExposedPorts, e.g. ("80/tcp",). A host part is ignored, as in Docker.

    Raises ValueError.
    """
    ports, slash, protocol = spec.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    match = _RANGE.fullmatch(ports.rpartition(":")[2])
    if not match or protocol not in _PROTOCOLS:
        raise ValueError(f"not a port: {spec!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last < 65536:
        raise ValueError(f"not a port or a range of ports: {spec!r}")
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))
