"""What the tests of the registry client push and pull: blobs of random bytes, an image of them, a client without
waits."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.oci import Descriptor, Manifest, Reference, media, sha256_digest
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.registry import Credentials, RegistryClient, RegistryOrigin, Retry, RetryPolicy, Timeouts


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def layer_of(data: bytes) -> Descriptor:
    return Descriptor(media.OCI_LAYER_GZIP, sha256_digest(data), len(data))


@dataclass
class Memory:
    """A complete blob in memory (`BlobSource`)."""

    data: bytes
    media_type: str = media.OCI_LAYER_GZIP
    #: the offsets it was read from
    read_from: list[int] = field(default_factory=list)

    @property
    def descriptor(self) -> Descriptor | None:
        return Descriptor(self.media_type, sha256_digest(self.data), len(self.data))

    @property
    def known(self) -> Descriptor:
        descriptor = self.descriptor
        assert descriptor
        return descriptor

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        self.read_from.append(offset)
        for start in range(offset, len(self.data), BLOCK):
            yield self.data[start : start + BLOCK]


class Growing(Memory):
    """A blob whose digest is not known before its bytes have been read to the end once."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.complete = False

    @property
    def descriptor(self) -> Descriptor | None:
        return super().descriptor if self.complete else None

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        yield from super().blocks(offset)
        self.complete = True


@dataclass(frozen=True)
class Image:
    """Two layers and a config, with the bytes at hand."""

    blobs: tuple[Memory, ...]
    manifest: Manifest

    @classmethod
    def of(cls, *layers: bytes) -> Image:
        blobs = [Memory(data) for data in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [blob.known.digest for blob in blobs]},
        }
        blobs.append(Memory(json.dumps(config).encode(), media.OCI_CONFIG))
        return cls(tuple(blobs), Manifest.of(blobs[-1].known, [blob.known for blob in blobs[:-1]]))


@dataclass
class Given:
    """A `CredentialStore` with the same for every registry."""

    credentials: Credentials

    def find(self, registry: str) -> Credentials:
        return self.credentials


class Waits(list[float]):
    """The waits between attempts, taken down instead of waited."""

    def policy(self, attempts: int = 5) -> RetryPolicy:
        return RetryPolicy(attempts=attempts, sleep=self.append)


def client_of(
    host: str,
    *,
    credentials: Credentials | None = None,
    waits: Waits | None = None,
    attempts: int = 5,
    timeouts: Timeouts | None = None,
    on_retry: Callable[[Retry], None] = lambda retry: None,
    insecure: frozenset[str] = frozenset(),
) -> RegistryClient:
    return RegistryClient(
        host,
        insecure=insecure,
        credentials=Given(credentials or Credentials("no credentials (none given)")),
        policy=(waits if waits is not None else Waits()).policy(attempts),
        timeouts=timeouts,
        on_retry=on_retry,
    )


def origin_of(client: RegistryClient) -> RegistryOrigin:
    return RegistryOrigin(lambda registry: client)


def pulled(client: RegistryClient, repository: str, descriptor: Descriptor) -> bytes:
    reference = Reference(client.registry, repository, "any")
    return b"".join(origin_of(client).blob(reference, descriptor))


def upload_span(recorder: Recorder | None = None) -> ActiveSpan:
    return (recorder or Recorder()).begin("upload", "a blob")


def attributes(span: ActiveSpan, recorder: Recorder) -> dict[str, object]:
    span.end()
    return dict(next(done for done in recorder.spans() if done.id == span.id).attributes)


def store_in(folder: Path) -> LocalStore:
    return LocalStore(folder)
