"""Image references, read as Docker reads them (distribution/reference, reference.go and normalize.go)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ci_plugins.oci.digest import Digest, parse_digest

DOCKER_HUB = "docker.io"

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry/repository[:tag][@digest]`. `registry` is a host with an optional port."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Without a registry it is Docker Hub, without a tag or digest `latest`. Raises ValueError."""
        rest, at, digest_text = text.partition("@")
        digest = parse_digest(digest_text) if at else None
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, path = first, remainder
        else:
            registry, path = DOCKER_HUB, rest
        repository, colon, tag = path.partition(":")
        if registry == "index.docker.io":
            registry = DOCKER_HUB
        if registry == DOCKER_HUB and "/" not in repository:
            repository = "library/" + repository
        if not _HOST.match(registry):
            raise ValueError(f"not an image reference: {text!r} (bad registry host {registry!r})")
        if not _REPOSITORY.match(repository) or len(repository) > 255:
            raise ValueError(f"not an image reference: {text!r} (names are lower case: a-z 0-9 . _ - /)")
        if colon and not _TAG.match(tag):
            raise ValueError(f"not an image reference: {text!r} (bad tag {tag!r})")
        return cls(registry, repository, tag or ("" if digest else "latest"), digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def at(self, digest: Digest) -> Reference:
        return replace(self, digest=digest)


def is_loopback(registry: str) -> bool:
    """localhost and loopback addresses: spoken to in plain HTTP, as Docker does."""
    host = registry.rpartition(":")[0] if re.search(r":\d+\Z", registry) else registry
    return host == "localhost" or host.startswith("127.") or host == "[::1]"
