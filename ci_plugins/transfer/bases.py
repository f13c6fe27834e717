"""Base images: names in a Dockerfile become manifests and configs, before any layer is thought of."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Executor, Future

from ci_plugins.dockerfile.instructions import Instruction
from ci_plugins.errors import CorruptLayer, DockerfileSyntaxError, PlatformNotAvailable, placed
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.oci import Descriptor, ImageConfig, ImageIndex, Manifest, Platform, Reference, sha256_digest
from ci_plugins.plan.steps import BaseImage
from ci_plugins.storage.blob import ImageOrigin
from ci_plugins.storage.local import LocalStore


class BaseImages:
    """Resolves each name once; several at a time after `prefetch`. Configs are kept in the local store."""

    def __init__(
        self,
        origin: ImageOrigin,
        store: LocalStore,
        platform: Platform,
        recorder: Recorder,
        pool: Executor,
        parent: ActiveSpan,
    ) -> None:
        self._origin, self._store, self._platform = origin, store, platform
        self._recorder, self._pool, self._parent = recorder, pool, parent
        self._lock = threading.Lock()
        self._images: dict[str, Future[BaseImage]] = {}

    def prefetch(self, names: Iterable[str]) -> None:
        for name in names:
            self._start(name)

    def resolve(self, name: str, instruction: Instruction) -> BaseImage:
        """Raises what the registry said, with the instruction's place."""
        with placed(instruction.location):
            return self._start(name).result()

    def _start(self, name: str) -> Future[BaseImage]:
        with self._lock:
            if name not in self._images:
                self._images[name] = self._pool.submit(self._resolve, name)
            return self._images[name]

    def _resolve(self, name: str) -> BaseImage:
        try:
            reference = Reference.parse(name)
        except ValueError as error:
            raise DockerfileSyntaxError(
                str(error), remedy="Write registry/repository:tag, or a stage's name."
            ) from error
        with self._recorder.span("resolve", name, self._parent, image=str(reference)):
            manifest = self._manifest(reference)
            config = self._config(reference, manifest.config)
        if len(config.diff_ids) != len(manifest.layers):
            raise CorruptLayer(
                f"{name}: {len(manifest.layers)} layers, but {len(config.diff_ids)} DiffIDs in its config"
            )
        return BaseImage(name, reference, manifest, config)

    def _manifest(self, reference: Reference) -> Manifest:
        found = self._origin.manifest(reference)
        if isinstance(found, Manifest):
            return found
        entry = found.for_platform(self._platform)
        if entry is None:
            have = ", ".join(str(item.platform) for item in found.manifests if item.platform) or "none"
            raise PlatformNotAvailable(f"{reference} has no image for {self._platform}; it has: {have}")
        manifest = self._origin.manifest(reference.at(entry.digest))
        if isinstance(manifest, ImageIndex):
            raise CorruptLayer(f"{reference}: an index within an index is not an image")
        return manifest

    def _config(self, reference: Reference, descriptor: Descriptor) -> ImageConfig:
        raw = self._store.read(descriptor) if self._store.has(descriptor) else b""
        if sha256_digest(raw) != descriptor.digest:
            raw = b"".join(self._origin.blob(reference, descriptor))
            self._store.remove(descriptor.digest)  # if there is one, it is damaged
            self._store.put(raw, descriptor)
        try:
            config = ImageConfig.from_bytes(raw)
        except ValueError as error:
            raise CorruptLayer(f"{reference}: its config cannot be read: {error}") from error
        if (config.platform.os, config.platform.architecture) != (self._platform.os, self._platform.architecture):
            raise PlatformNotAvailable(f"{reference} is an image for {config.platform}, not for {self._platform}")
        return config
