"""Uploads in progress: one file each, so that they outlive a lost connection and a restart.

A digest can only be known by hashing everything in order; the running hash lives in memory beside the file, is brought
up to date in the same pass that receives the bytes, and is made again from the file after a restart.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from ci_plugins.errors import state_errors
from ci_plugins.oci import Descriptor, Digest
from ci_plugins.serve.body import Body
from ci_plugins.serve.refusal import Refusal
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.local import LocalStore

#: Seconds after which an upload nobody goes on with is removed when the registry starts.
ABANDONED = 7 * 24 * 3600.0
_PATIENCE = 10.0
_ID = re.compile(r"[0-9a-f]{32}\Z")


class Upload:
    """A blob that is being received. Who uses it holds it (`Uploads.held`): requests on one upload go in turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        #: whether size and hash are those of the file
        self.loaded = False
        self._size = 0
        self._hash = hashlib.sha256()

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes on disk: from here the client goes on."""
        return self._size

    def load(self) -> None:
        """Make size and hash agree with the file. Raises FileNotFoundError."""
        self._size, self._hash = 0, hashlib.sha256()
        block = memoryview(bytearray(BLOCK))
        with self.path.open("rb", buffering=0) as file:
            while got := file.readinto(block):
                self._hash.update(block[:got])
                self._size += got
        self.loaded = True

    def receive(self, body: Body) -> None:
        """Append all of a body. Raises ClientGone or DiskFull: what arrived and was written before is kept."""
        with state_errors(self.path), self.path.open("r+b", buffering=0) as file:
            try:
                self._append(body, file.fileno())
            except OSError:
                # The hash may have seen what was never written: it is made again when somebody goes on.
                self.loaded = False
                os.ftruncate(file.fileno(), self._size)
                raise

    def _append(self, body: Body, fd: int) -> None:
        # Two blocks in turn: while one is hashed in a second thread, this thread writes it and receives the next.
        blocks = memoryview(bytearray(BLOCK)), memoryview(bytearray(BLOCK))
        filled = body.fill(blocks[0])
        if body.ended:
            self._write(fd, blocks[0][:filled])
            self._hash.update(blocks[0][:filled])
            return
        hashing: Future[None] | None = None
        with ThreadPoolExecutor(1, "serve-hash") as pool:
            turn = 0
            while filled:
                if hashing:
                    hashing.result()
                data = blocks[turn][:filled]
                hashing = pool.submit(self._hash.update, data)
                self._write(fd, data)
                turn = 1 - turn
                filled = body.fill(blocks[turn])

    def _write(self, fd: int, data: memoryview) -> None:
        at = self._size
        while data:
            written = os.pwrite(fd, data, at)
            data, at = data[written:], at + written
        self._size = at

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class Uploads:
    """All uploads of a registry, in `_uploads` below their repository."""

    def __init__(self, repositories: Path, store: LocalStore) -> None:
        self._root = repositories
        self._store = store
        self._lock = threading.Lock()
        self._open: dict[Path, Upload] = {}
        self._remove_abandoned()

    def begin(self, name: str) -> Upload:
        path = self._root / name / "_uploads" / os.urandom(16).hex()
        with state_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        upload = Upload(path)
        upload.loaded = True
        with self._lock:
            self._open[path] = upload
        return upload

    @contextmanager
    def held(self, name: str, id: str) -> Iterator[Upload]:
        """The upload, for this request alone. Raises Refusal if there is none, or another request does not end."""
        unknown = Refusal(404, "BLOB_UPLOAD_UNKNOWN", f"{name} has no upload {id}: it was finished or given up")
        path = self._root / name / "_uploads" / id
        if not _ID.match(id):
            raise unknown
        with self._lock:
            upload = self._open.setdefault(path, Upload(path))
        # Not at once: a client that lost its connection comes back before the server has noticed.
        if not upload.lock.acquire(timeout=_PATIENCE):
            raise Refusal(409, "BLOB_UPLOAD_INVALID", f"another request is sending to upload {id}")
        try:
            if not path.is_file():
                self._forget(upload)
                raise unknown
            if not upload.loaded:
                with state_errors(path):
                    upload.load()
            yield upload
        finally:
            upload.lock.release()

    def finish(self, upload: Upload, digest: Digest) -> Descriptor:
        """Put a held upload into the store. Raises Refusal if it is not what the digest says: it is gone then."""
        if upload.digest() != digest:
            self.cancel(upload)
            raise Refusal(400, "DIGEST_INVALID", f"{upload.size} bytes were received and hash to {upload.digest()}")
        self._store.adopt(upload.path, digest)
        self._forget(upload)
        return Descriptor("application/octet-stream", digest, upload.size)

    def cancel(self, upload: Upload) -> None:
        with state_errors(upload.path):
            upload.path.unlink(missing_ok=True)
        self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            self._open.pop(upload.path, None)

    def _remove_abandoned(self) -> None:
        now = time.time()
        with state_errors(self._root):
            for path in self._root.glob("**/_uploads/*"):
                with suppress(FileNotFoundError):  # another registry on the same directory was faster
                    if now - path.stat().st_mtime > ABANDONED:
                        path.unlink()
