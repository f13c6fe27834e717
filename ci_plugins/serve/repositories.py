"""Which repository has which blobs, manifests and tags: small files that point into the blob store.

    repositories/<name>/_blobs/<hex>                   size in bytes
    repositories/<name>/_manifests/<hex>               descriptor of the manifest, as JSON
    repositories/<name>/_tags/<tag>                    digest
    repositories/<name>/_referrers/<subject hex>/<hex> descriptor of a manifest whose subject that is, as JSON
    repositories/<name>/_uploads/<id>                  bytes received so far (uploads.py)

A repository's name cannot contain a part that begins with an underscore, so nothing collides. Each file is replaced
whole; a blob is in the store before a link names it, a tag moves last. Deleting removes links: the bytes stay in
the store, which other repositories and builds share.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ci_plugins.errors import state_errors
from ci_plugins.oci import Descriptor, Digest, Reference, hex_of, parse_digest, sha256_digest
from ci_plugins.serve.documents import Document, read_document
from ci_plugins.serve.refusal import Refusal, blob_unknown, manifest_unknown, name_unknown
from ci_plugins.storage.files import write_atomically
from ci_plugins.storage.local import LocalStore


class Repositories:
    """Links on disk. Safe to use from many threads; names and tags are checked by `checked_name` before."""

    def __init__(self, root: Path, store: LocalStore) -> None:
        self._root = root
        self._store = store
        # A manifest's references are checked and the manifest is linked without a deletion in between.
        self._lock = threading.RLock()
        with state_errors(root):
            root.mkdir(parents=True, exist_ok=True)

    # -- blobs ------------------------------------------------------------------------------------------------------

    def blob(self, name: str, digest: Digest) -> Descriptor:
        """Raises Refusal if the repository, or the store, does not have it whole."""
        size = _read(self._root / name / "_blobs" / hex_of(digest))
        if size is None:
            raise blob_unknown(name, digest)
        found = Descriptor("application/octet-stream", digest, int(size))
        if not self._store.has(found):
            raise blob_unknown(name, digest)
        return found

    def link_blob(self, name: str, descriptor: Descriptor) -> None:
        self._write(self._root / name / "_blobs" / hex_of(descriptor.digest), str(descriptor.size))

    def unlink_blob(self, name: str, digest: Digest) -> None:
        with self._lock:
            self.blob(name, digest)
            self._remove(self._root / name / "_blobs" / hex_of(digest))

    def mount(self, name: str, digest: Digest, origin: str | None) -> bool:
        """Link a blob of another repository, or without an origin any blob of the store. False if it is not there."""
        try:
            found = self.blob(origin, digest) if origin is not None else self._stored(digest)
        except Refusal:
            return False
        self.link_blob(name, found)
        return True

    def _stored(self, digest: Digest) -> Descriptor:
        # No link says how large it has to be, so that a truncated one could be taken for whole: it is hashed.
        try:
            with self._store.path(digest).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except FileNotFoundError as error:
            raise blob_unknown("the store", digest) from error
        if actual != hex_of(digest):
            raise blob_unknown("the store", digest)
        return Descriptor("application/octet-stream", digest, size)

    # -- manifests --------------------------------------------------------------------------------------------------

    def manifest(self, name: str, reference: str) -> Descriptor:
        """By tag or digest. Raises Refusal."""
        if ":" in reference:
            digest: str | None = reference
        else:
            digest = _read(self._root / name / "_tags" / reference)
        link = digest and _read(self._root / name / "_manifests" / hex_of(Digest(digest)))
        if not link:
            raise manifest_unknown(name, reference)
        return Descriptor.from_json(json.loads(link))

    def put_manifest(self, name: str, reference: str, content_type: str, raw: bytes) -> tuple[Descriptor, Document]:
        """Check, store, link, and move the tag last. Raises Refusal."""
        document = read_document(raw, content_type)
        descriptor = Descriptor(document.media_type, sha256_digest(raw), len(raw))
        if ":" in reference and reference != descriptor.digest:
            raise Refusal(400, "DIGEST_INVALID", f"the manifest's digest is {descriptor.digest}, not {reference}")
        folder, hex_digits = self._root / name, hex_of(descriptor.digest)
        with self._lock:
            for needed in document.references:
                self._check_reference(name, needed)
            self._store.put(raw, descriptor)
            self._write(folder / "_manifests" / hex_digits, json.dumps(descriptor.to_json()))
            if document.subject:
                entry: dict[str, Any] = {**descriptor.to_json(), "artifactType": document.artifact_type}
                if document.annotations:
                    entry["annotations"] = dict(document.annotations)
                self._write(folder / "_referrers" / hex_of(document.subject) / hex_digits, json.dumps(entry))
            if ":" not in reference:
                self._write(folder / "_tags" / reference, descriptor.digest)
        return descriptor, document

    def delete_manifest(self, name: str, reference: str) -> None:
        """A tag: that tag alone. A digest: the manifest and every tag on it. Raises Refusal."""
        folder = self._root / name
        with self._lock:
            found = self.manifest(name, reference)
            if ":" not in reference:
                self._remove(folder / "_tags" / reference)
                return
            for tag in _names(folder / "_tags"):
                if _read(folder / "_tags" / tag) == found.digest:
                    self._remove(folder / "_tags" / tag)
            subject = read_document(self._store.read(found), found.media_type).subject
            if subject:
                self._remove(folder / "_referrers" / hex_of(subject) / hex_of(found.digest))
            self._remove(folder / "_manifests" / hex_of(found.digest))

    def _check_reference(self, name: str, needed: Descriptor) -> None:
        # An index may list blobs too: BuildKit's cache manifests do.
        try:
            found = self.manifest(name, needed.digest)
        except Refusal:
            try:
                found = self.blob(name, needed.digest)
            except Refusal as error:
                unknown = f"the manifest needs {needed.digest}, which {name} does not have"
                raise Refusal(400, "MANIFEST_BLOB_UNKNOWN", unknown) from error
        if found.size != needed.size:
            raise Refusal(
                400, "SIZE_INVALID", f"the manifest says {needed.digest} has {needed.size} bytes; it has {found.size}"
            )

    # -- lists ------------------------------------------------------------------------------------------------------

    def tags(self, name: str) -> list[str]:
        """Sorted by code points. Raises Refusal."""
        if not any((self._root / name / part).is_dir() for part in ("_blobs", "_manifests")):
            raise name_unknown(name)
        return _names(self._root / name / "_tags")

    def catalog(self) -> list[str]:
        """Repositories that have a manifest, sorted by code points."""
        return sorted(name for name in self._walk("") if _names(self._root / name / "_manifests"))

    def referrers(self, name: str, subject: Digest) -> list[dict[str, Any]]:
        folder = self._root / name / "_referrers" / hex_of(subject)
        links = (_read(folder / link) for link in _names(folder))
        return [json.loads(link) for link in links if link]

    def _walk(self, prefix: str) -> Iterator[str]:
        with os.scandir(self._root / prefix) as entries:
            names = [entry.name for entry in entries if entry.name[0] not in "._" and entry.is_dir()]
        for name in names:
            yield prefix + name
            yield from self._walk(f"{prefix}{name}/")

    # -- files ------------------------------------------------------------------------------------------------------

    def _write(self, path: Path, text: str) -> None:
        with state_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())

    def _remove(self, path: Path) -> None:
        with state_errors(path):
            path.unlink(missing_ok=True)


def checked_name(name: str) -> str:
    """Raises Refusal (400, NAME_INVALID)."""
    try:
        Reference.parse(f"localhost/{name}:tag")
    except ValueError as error:
        raise Refusal(400, "NAME_INVALID", f"not the name of a repository: {name!r}") from error
    return name


def checked_digest(text: str) -> Digest:
    """Raises Refusal (400, DIGEST_INVALID)."""
    try:
        return parse_digest(text)
    except ValueError as error:
        raise Refusal(400, "DIGEST_INVALID", str(error)) from error


def checked_reference(text: str) -> str:
    """A tag or a digest. Raises Refusal."""
    if ":" in text:
        return checked_digest(text)
    try:
        Reference.parse(f"localhost/name:{text}")
    except ValueError as error:
        raise Refusal(400, "TAG_INVALID", f"not a tag: {text!r}") from error
    return text


def _read(path: Path) -> str | None:
    try:
        return path.read_text() or None  # empty when power was lost before it was on disk
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return []
