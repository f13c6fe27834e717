"""The OCI distribution API (distribution-spec, endpoints end-1 to end-13) as a function from request to response.

Knows nothing of sockets: `connection.py` reads requests and writes responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from ci_plugins.oci import Descriptor, media
from ci_plugins.serve.body import Body
from ci_plugins.serve.refusal import Refusal, blob_unknown, manifest_unknown
from ci_plugins.serve.repositories import Repositories, checked_digest, checked_name, checked_reference
from ci_plugins.serve.uploads import Upload, Uploads
from ci_plugins.storage.local import LocalStore

#: A larger manifest is refused; the spec asks for at least this much to be taken.
LARGEST_MANIFEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is decoded and without query; header names are looked up without regard to case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body


@dataclass(frozen=True, slots=True)
class FilePart:
    """A response body that is sent from a file; whoever sends it closes the file."""

    file: BinaryIO
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Response:
    """Content-Length is the body's unless `headers` has one (an answer to HEAD)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FilePart = b""


class Registry:
    """A registry below a directory. Safe to use from many threads."""

    def __init__(self, root: Path) -> None:
        """Raises StateError if the directory cannot be used."""
        self._store = LocalStore(root)
        self._repositories = Repositories(root / "repositories", self._store)
        self._uploads = Uploads(root / "repositories", self._store)

    def handle(self, request: Request) -> Response:
        """Raises Refusal for what is answered with an error, ClientGone, StateError."""
        for pattern, methods in _ROUTES:
            if match := pattern.fullmatch(request.path):
                found = match.groupdict()
                if "name" in found:
                    checked_name(found["name"])
                if method := methods.get(request.method):
                    return method(self, request, **found)
                allowed = {"Allow": ", ".join(methods)}
                raise Refusal(405, "UNSUPPORTED", f"{request.method} is not for {request.path}", allowed)
        raise Refusal(404, "UNSUPPORTED", f"there is nothing at {request.path}")

    def _version(self, request: Request) -> Response:
        return _json({})

    def _catalog(self, request: Request) -> Response:
        return _page(request, "repositories", self._repositories.catalog())

    def _tags(self, request: Request, name: str) -> Response:
        return _page(request, "tags", self._repositories.tags(name), {"name": name})

    # -- manifests --------------------------------------------------------------------------------------------------

    def _get_manifest(self, request: Request, name: str, reference: str) -> Response:
        found = self._repositories.manifest(name, checked_reference(reference))
        headers = {"Content-Type": found.media_type, **_content(found)}
        if not self._store.has(found):
            raise manifest_unknown(name, reference)
        if request.method == "HEAD":
            return Response(200, headers)
        return Response(200, headers, self._store.read(found))

    def _put_manifest(self, request: Request, name: str, reference: str) -> Response:
        checked_reference(reference)
        raw = request.body.whole(LARGEST_MANIFEST)
        content_type = request.headers.get("Content-Type") or ""
        descriptor, document = self._repositories.put_manifest(name, reference, content_type, raw)
        headers = {"Location": f"/v2/{name}/manifests/{descriptor.digest}", "Docker-Content-Digest": descriptor.digest}
        if document.subject:
            headers["OCI-Subject"] = document.subject
        return Response(201, headers)

    def _delete_manifest(self, request: Request, name: str, reference: str) -> Response:
        self._repositories.delete_manifest(name, checked_reference(reference))
        return Response(202)

    def _referrers(self, request: Request, name: str, digest: str) -> Response:
        entries = self._repositories.referrers(name, checked_digest(digest))
        headers = {}
        if wanted := request.query.get("artifactType"):
            entries = [entry for entry in entries if entry["artifactType"] == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
        return Response(200, {**headers, "Content-Type": media.OCI_INDEX}, json.dumps(index).encode())

    # -- blobs ------------------------------------------------------------------------------------------------------

    def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        found = self._repositories.blob(name, checked_digest(digest))
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **_content(found)}
        part = _range(request.headers.get("Range"), found.size)
        start, end = part or (0, found.size)
        if part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
            headers["Content-Length"] = str(end - start)
        status = 206 if part else 200
        if request.method == "HEAD":
            return Response(status, headers)
        try:
            file = self._store.path(found.digest).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise blob_unknown(name, digest) from error
        return Response(status, headers, FilePart(file, start, end - start))

    def _delete_blob(self, request: Request, name: str, digest: str) -> Response:
        self._repositories.unlink_blob(name, checked_digest(digest))
        return Response(202)

    # -- uploads ----------------------------------------------------------------------------------------------------

    def _begin_upload(self, request: Request, name: str) -> Response:
        if wanted := request.query.get("mount"):
            digest, origin = checked_digest(wanted), request.query.get("from") or None
            if self._repositories.mount(name, digest, checked_name(origin) if origin else None):
                return _created(name, digest)
        if "digest" not in request.query:
            return _accepted(202, name, self._uploads.begin(name))
        digest = checked_digest(request.query["digest"])
        upload = self._uploads.begin(name)
        try:
            upload.receive(request.body)
        except BaseException:
            self._uploads.cancel(upload)  # the client was not told of it, so it cannot go on with it
            raise
        self._repositories.link_blob(name, self._uploads.finish(upload, digest))
        return _created(name, digest)

    def _upload_status(self, request: Request, name: str, id: str) -> Response:
        with self._uploads.held(name, id) as upload:
            return _accepted(204, name, upload)

    def _append(self, request: Request, name: str, id: str) -> Response:
        with self._uploads.held(name, id) as upload:
            self._receive(request, name, upload)
            return _accepted(202, name, upload)

    def _finish_upload(self, request: Request, name: str, id: str) -> Response:
        digest = checked_digest(request.query.get("digest", ""))
        with self._uploads.held(name, id) as upload:
            self._receive(request, name, upload)
            self._repositories.link_blob(name, self._uploads.finish(upload, digest))
            return _created(name, digest)

    def _cancel_upload(self, request: Request, name: str, id: str) -> Response:
        with self._uploads.held(name, id) as upload:
            self._uploads.cancel(upload)
            return Response(204)

    def _receive(self, request: Request, name: str, upload: Upload) -> None:
        said = request.headers.get("Content-Range")
        if said is None:
            upload.receive(request.body)
            return
        match = re.fullmatch(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/.*)?", said)
        if not match:
            raise Refusal(400, "BLOB_UPLOAD_INVALID", f"not a Content-Range: {said!r}")
        start, last = int(match[1]), int(match[2])
        if start != upload.size:
            message = f"the chunk begins at {start}, but {upload.size} bytes are here"
            raise Refusal(416, "BLOB_UPLOAD_INVALID", message, _accepted(416, name, upload).headers)
        length = request.headers.get("Content-Length")
        if length is not None and int(length) != last + 1 - start:
            raise Refusal(400, "SIZE_INVALID", f"Content-Range {said} and Content-Length {length} disagree")
        upload.receive(request.body)


Method = Callable[..., Response]
_BLOB: Mapping[str, Method] = {
    "GET": Registry._get_blob,
    "HEAD": Registry._get_blob,
    "DELETE": Registry._delete_blob,
}
_MANIFEST: Mapping[str, Method] = {
    "GET": Registry._get_manifest,
    "HEAD": Registry._get_manifest,
    "PUT": Registry._put_manifest,
    "DELETE": Registry._delete_manifest,
}
_UPLOAD: Mapping[str, Method] = {
    "GET": Registry._upload_status,
    "PATCH": Registry._append,
    "PUT": Registry._finish_upload,
    "DELETE": Registry._cancel_upload,
}
#: In this order: a name may contain "blobs" and "manifests" as parts.
_ROUTES: tuple[tuple[re.Pattern[str], Mapping[str, Method]], ...] = (
    (re.compile(r"/v2/?"), {"GET": Registry._version, "HEAD": Registry._version}),
    (re.compile(r"/v2/_catalog"), {"GET": Registry._catalog}),
    (re.compile(r"/v2/(?P<name>.+)/tags/list"), {"GET": Registry._tags}),
    (re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)"), {"GET": Registry._referrers}),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?"), {"POST": Registry._begin_upload}),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[^/]+)"), _UPLOAD),
    (re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)"), _BLOB),
    (re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"), _MANIFEST),
)


def _json(value: object, headers: Mapping[str, str] = {}) -> Response:
    return Response(200, {**headers, "Content-Type": "application/json"}, json.dumps(value).encode())


def _content(found: Descriptor) -> dict[str, str]:
    return {"Content-Length": str(found.size), "Docker-Content-Digest": found.digest}


def _created(name: str, digest: str) -> Response:
    return Response(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})


def _accepted(status: int, name: str, upload: Upload) -> Response:
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload.id}",
        # An empty upload says the same as one of a single byte: so every registry does.
        "Range": f"0-{max(upload.size - 1, 0)}",
        "Docker-Upload-UUID": upload.id,
    }
    return Response(status, headers)


def _page(request: Request, field: str, names: list[str], fields: Mapping[str, str] = {}) -> Response:
    """A part of a sorted list: `n` names after `last`, and where the next ones are (spec, "Listing Tags")."""
    asked, last = request.query.get("n"), request.query.get("last", "")
    rest = [name for name in names if name > last]
    if asked is None:
        return _json({**fields, field: rest})
    if not re.fullmatch(r"[0-9]{1,9}", asked):
        raise Refusal(400, "PAGINATION_NUMBER_INVALID", f"n is not a count: {asked!r}")
    page = rest[: int(asked)]
    headers = {}
    if page and len(page) < len(rest):
        query = urlencode({"last": page[-1], "n": asked})
        headers["Link"] = f'<{quote(request.path)}?{query}>; rel="next"'
    return _json({**fields, field: page}, headers)


def _range(asked: str | None, size: int) -> tuple[int, int] | None:
    """Start and end of the one range that is asked for (RFC 9110, section 14); None to send everything.

    Raises Refusal (416).
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (asked or "").replace(" ", ""))
    if not match or not (match[1] or match[2]):
        return None
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size) + 1, size)
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= size or start >= end:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "SIZE_INVALID", f"the blob has {size} bytes, not the range {asked}", headers)
    return start, end
