"""Push: every blob to every destination as soon as it exists, the manifest last.

Uploads of layers that are still being compressed follow their spool. A manifest is put only after each blob under it
was confirmed at that destination, a tag moves only with it: a build that fails half-way publishes nothing, and what
was uploaded is found by the next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from ci_plugins.errors import CiPluginsError, Interrupted
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.oci import Descriptor, Digest, Manifest, Reference, hex_of
from ci_plugins.storage.blob import BlobSource, Destination


@dataclass(frozen=True, slots=True)
class Target:
    """A destination and the tags that shall point to the image there; no tags: by digest only."""

    destination: Destination
    tags: tuple[str, ...]


@dataclass(slots=True)
class Push:
    """One image on its way to all targets. Thread safe."""

    targets: Sequence[Target]
    recorder: Recorder
    pool: Executor
    #: hears at once what made an upload give up
    failed: Callable[[BaseException], None]
    #: ends every upload at its next block: the image will not be published
    abandoned: threading.Event
    _uploads: list[Future[Descriptor]] = field(default_factory=list)
    _known: set[Digest] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stream(self, source: BlobSource, label: str, parent: ActiveSpan) -> None:
        """Begin to send a layer whose digest is not known yet."""
        for target in self.targets:
            self._submit(self._send, target.destination, source, label, parent)

    def stored(
        self,
        descriptor: Descriptor,
        origin: Reference | None,
        open_blob: Callable[[], BlobSource],
        parent: ActiveSpan,
    ) -> None:
        """Make sure a known blob is there: it is, or it is mounted from `origin`, or it is sent. `open_blob` fetches
        it when it has to be sent."""
        with self._lock:
            if descriptor.digest in self._known:
                return
            self._known.add(descriptor.digest)
        for target in self.targets:
            self._submit(self._ensure, target.destination, descriptor, origin, open_blob, parent)

    def finish(self, manifest: Manifest, config: BlobSource, parent: ActiveSpan) -> None:
        """Wait for every layer, then put config, manifest and tags. Raises the first error of an upload."""
        for target in self.targets:
            self._submit(self._send, target.destination, config, "config", parent)
        uploads = self.wait()
        self._check_complete(manifest, uploads)
        puts = [self.pool.submit(self._publish, target, manifest, parent) for target in self.targets]
        for put in puts:
            put.result()

    def wait(self) -> list[Future[Descriptor]]:
        """Until every blob is confirmed. Raises the first error of an upload."""
        with self._lock:
            uploads = list(self._uploads)
        wait(uploads, return_when=FIRST_EXCEPTION)
        for upload in uploads:
            if upload.done():
                upload.result()
        return uploads

    def up_to_date(self, manifest: Manifest) -> bool:
        """Every tag points to this manifest already: nothing is to be done."""
        digest = manifest.descriptor.digest
        return all(
            target.tags and all(target.destination.manifest_digest(tag) == digest for tag in target.tags)
            for target in self.targets
        )

    def _submit(self, work: Callable[..., Descriptor], *arguments: object) -> None:
        upload = self.pool.submit(work, *arguments)
        with self._lock:
            self._uploads.append(upload)
        upload.add_done_callback(self._tell)

    def _tell(self, upload: Future[Descriptor]) -> None:
        if error := upload.exception():
            self.failed(error)

    def _send(self, destination: Destination, source: BlobSource, label: str, parent: ActiveSpan) -> Descriptor:
        with self.recorder.span("upload", label, parent, destination=destination.name) as span:
            descriptor = destination.put_blob(_Abandonable(source, self.abandoned), span)
            span.set(bytes=descriptor.size, digest=descriptor.digest)
            return descriptor

    def _ensure(
        self,
        destination: Destination,
        descriptor: Descriptor,
        origin: Reference | None,
        open_blob: Callable[[], BlobSource],
        parent: ActiveSpan,
    ) -> Descriptor:
        label = hex_of(descriptor.digest)[:12]
        with self.recorder.span("upload", label, parent, destination=destination.name) as span:
            span.set(bytes=0, digest=descriptor.digest)
            if destination.has_blob(descriptor):
                span.set(result="exists")
            elif origin is not None and destination.mount_blob(descriptor, origin):
                span.set(result="mounted")
            else:
                destination.put_blob(_Abandonable(open_blob(), self.abandoned), span)
                span.set(bytes=descriptor.size, result="uploaded")
            return descriptor

    def _publish(self, target: Target, manifest: Manifest, parent: ActiveSpan) -> None:
        for tag in target.tags or (None,):
            with self.recorder.span("manifest", tag or manifest.descriptor.digest, parent) as span:
                span.set(destination=target.destination.name, tag=tag or "")
                target.destination.put_manifest(manifest, tag)

    def _check_complete(self, manifest: Manifest, uploads: Sequence[Future[Descriptor]]) -> None:
        confirmed = {upload.result().digest for upload in uploads}
        for blob in (manifest.config, *manifest.layers):
            if blob.digest not in confirmed:
                raise CiPluginsError(
                    f"the blob {blob.digest} of the image was never sent; the manifest is not published"
                )


@dataclass(frozen=True, slots=True)
class _Abandonable:
    """A source that ends in `Interrupted` once the push is abandoned."""

    source: BlobSource
    abandoned: threading.Event

    @property
    def descriptor(self) -> Descriptor | None:
        return self.source.descriptor

    @property
    def path(self) -> Path | None:
        """The file that holds the blob, for destinations that can take it over."""
        return getattr(self.source, "path", None)

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        for block in self.source.blocks(offset):
            if self.abandoned.is_set():
                raise Interrupted("the push was abandoned")
            yield block
