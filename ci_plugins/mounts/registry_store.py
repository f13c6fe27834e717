"""Packs and indexes in a repository of a registry.

An index is the config of an artifact manifest whose layers are its packs, tagged `ci-plugins-mount-<name>`: so the
registry's garbage collection keeps exactly what the newest index needs, and takes the rest when the tag has moved.

A registry cannot compare and replace in one go. Who writes looks right before that whether the tag is still what he has
read, and once more when another writer who looked before has written too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci_plugins.cache.removal import Freed
from ci_plugins.errors import ImageNotFound, RegistryError
from ci_plugins.events import Recorder
from ci_plugins.mounts.index import INDEX_TYPE
from ci_plugins.oci import Descriptor, Digest, Manifest, Reference, sha256_digest

if TYPE_CHECKING:
    from ci_plugins.storage.registry import RegistryClient

_TAG = "ci-plugins-mount-"
_CREATED = "org.opencontainers.image.created"
_ASKING = 8
#: seconds: the least and the longest wait for another writer, who may take twice as long to write as this one
_SETTLE = 0.1, 0.5


class RegistryChunks:
    """A `ChunkStore` in `repository`; `client` is that of its registry."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        from ci_plugins.storage.registry import RegistryDestination, RegistryOrigin

        self._client, self._repository = client, repository
        self._destination = RegistryDestination(client, repository)
        self._origin = RegistryOrigin(lambda registry: client)

    @property
    def name(self) -> str:
        return f"registry://{self._destination.name}"

    def missing(self, packs: Sequence[Descriptor]) -> list[Descriptor]:
        with ThreadPoolExecutor(_ASKING, thread_name_prefix="mount") as pool:
            return [
                pack for pack, has in zip(packs, pool.map(self._destination.has_blob, packs), strict=True) if not has
            ]

    def put(self, pack: Descriptor, data: bytes) -> bool:
        # A span of its own: a pack is not what people want to see one by one.
        with Recorder().span("upload", pack.digest) as span:
            if self._destination.has_blob(pack):
                return False
            self._destination.put_blob(_Bytes(pack, data), span)
        return True

    def get(self, pack: Descriptor) -> bytes:
        return b"".join(self._origin.blob(self._reference(""), pack))

    def stamp(self, name: str) -> Digest | None:
        try:
            manifest = self._origin.manifest(self._reference(name))
        except ImageNotFound:
            return None
        if not isinstance(manifest, Manifest):
            return manifest.descriptor.digest
        return manifest.config.digest

    def index(self, name: str) -> bytes | None:
        reference = self._reference(name)
        try:
            manifest = self._origin.manifest(reference)
        except ImageNotFound:
            return None
        if not isinstance(manifest, Manifest) or manifest.config.media_type != INDEX_TYPE:
            raise RegistryError(f"{reference} is not the index of a cache mount")
        return b"".join(self._origin.blob(reference, manifest.config))

    def put_index(self, name: str, data: bytes, packs: Sequence[Descriptor], *, replacing: Digest | None) -> bool:
        config = Descriptor(INDEX_TYPE, sha256_digest(data), len(data))
        self.put(config, data)
        created = {_CREATED: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        manifest = Manifest.of(config, packs, created)
        if self.stamp(name) != replacing:
            return False
        began = time.monotonic()
        self._destination.put_manifest(manifest, _TAG + name)  # the registry refuses it when a blob is gone
        least, most = _SETTLE
        time.sleep(min(max(2 * (time.monotonic() - began), least), most))
        return self.stamp(name) == config.digest

    def prune(self, before: float) -> Freed:
        """Packs are the registry's to remove, when it collects its garbage."""
        from ci_plugins.storage.registry import RegistryListing

        try:
            tags = RegistryListing(self._client).tags(self._repository)
        except ImageNotFound:
            return Freed()
        return Freed(mounts=sum(self._remove(tag, before) for tag in tags if tag.startswith(_TAG)))

    def _remove(self, tag: str, before: float) -> bool:
        from ci_plugins.storage.registry.auth import push_scope

        try:
            manifest = self._origin.manifest(self._reference(tag.removeprefix(_TAG)))
            if not isinstance(manifest, Manifest) or _created(manifest) >= before:
                return False
            url = self._client.url(self._repository, f"manifests/{manifest.descriptor.digest}")
            answer = self._client.exchange("DELETE", url, frozenset({push_scope(self._repository)}), (202, 404, 405))
        except ImageNotFound:
            return False
        return answer.status == 202

    def _reference(self, name: str) -> Reference:
        return Reference(self._client.registry, self._repository, _TAG + name)


class _Bytes:
    """Bytes in memory as the source of an upload."""

    def __init__(self, descriptor: Descriptor, data: bytes) -> None:
        self._descriptor, self._data = descriptor, data

    @property
    def descriptor(self) -> Descriptor:
        return self._descriptor

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        view = memoryview(self._data)
        for start in range(offset, len(view), 1 << 20):
            yield bytes(view[start : start + (1 << 20)])


def _created(manifest: Manifest) -> float:
    """Seconds since the epoch; now for a manifest that does not say."""
    import json

    try:
        written = json.loads(manifest.raw)["annotations"][_CREATED]
        return datetime.fromisoformat(written).timestamp()
    except (KeyError, TypeError, ValueError):
        return datetime.now(UTC).timestamp()
