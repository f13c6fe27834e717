"""The OCI distribution spec, point by point, over raw HTTP: against our registry, and against Debian's docker-registry
where both are to agree.

The second one keeps the tests honest: what it does too is what clients are used to. Points that are marked `ours` are
in the spec, but distribution 2.8 does them differently or not at all.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from ci_plugins.oci import media, sha256_digest
from ci_plugins.serve import create_server
from tests.servers import DockerRegistry

MISSING = "sha256:" + "0" * 64
ours = pytest.mark.parametrize("registry", ["ours"], indirect=True)
UPLOADS = "/v2/app/blobs/uploads/"


@dataclass
class Api:
    """Requests to one registry; locations may be absolute or relative."""

    base: str
    session: requests.Session

    def __call__(self, method: str, url: str, status: int, **options: Any) -> requests.Response:
        response = self.session.request(method, urljoin(self.base, url), timeout=20, allow_redirects=False, **options)
        assert response.status_code == status, f"{method} {url}: {response.status_code} {response.text}"
        return response

    def refused(self, method: str, url: str, status: int, code: str, **options: Any) -> requests.Response:
        response = self(method, url, status, **options)
        errors = response.json()["errors"]
        assert [error["code"] for error in errors] == [code]
        assert errors[0]["message"]
        return response

    def begin(self, name: str = "app") -> str:
        return self("POST", f"/v2/{name}/blobs/uploads/", 202).headers["Location"]

    def push(self, data: bytes, name: str = "app") -> dict[str, Any]:
        digest = sha256_digest(data)
        self("PUT", with_query(self.begin(name), digest=digest), 201, data=data)
        return {"mediaType": media.OCI_LAYER, "digest": digest, "size": len(data)}

    def image(self, text: str = "", name: str = "app", **fields: Any) -> bytes:
        """A manifest whose blobs are there."""
        config = {**self.push(b'{"made":"%s"}' % text.encode(), name), "mediaType": media.OCI_CONFIG}
        layers = [self.push(b"layer" + text.encode(), name)]
        return document(config=config, layers=layers, **fields)

    def tag(self, raw: bytes, reference: str, name: str = "app", kind: str = media.OCI_MANIFEST) -> requests.Response:
        return self("PUT", f"/v2/{name}/manifests/{reference}", 201, data=raw, headers={"Content-Type": kind})


def document(kind: str = media.OCI_MANIFEST, **fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": kind, **fields}).encode()


def with_query(url: str, **query: str) -> str:
    return url + ("&" if "?" in url else "?") + "&".join(f"{key}={value}" for key, value in query.items())


@contextmanager
def our_registry(root: Path) -> Iterator[str]:
    server = create_server(root)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{server.address}"
    finally:
        server.shutdown()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(params=["ours", "docker-registry"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    with requests.Session() as session:
        session.trust_env = False
        if request.param == "ours":
            with our_registry(tmp_path) as base:
                yield Api(base, session)
        else:
            with DockerRegistry.start(tmp_path) as other:
                yield Api(f"http://{other.host}", session)


# --- end-1: is it a registry? ---------------------------------------------------------------------------------------


def test_version(registry: Api) -> None:
    response = registry("GET", "/v2/", 200)
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert response.json() == {}


def test_what_is_not_there(registry: Api) -> None:
    registry("GET", "/v2/app/nothing", 404)
    registry("GET", "/elsewhere", 404)


@ours
def test_methods_that_are_not_for_it(registry: Api) -> None:
    assert registry.refused("POST", "/v2/app/manifests/1", 405, "UNSUPPORTED").headers["Allow"] == (
        "GET, HEAD, PUT, DELETE"
    )
    registry.refused("PATCH", "/v2/", 405, "UNSUPPORTED")


# --- end-2: blobs ---------------------------------------------------------------------------------------------------


def test_pull_a_blob(registry: Api) -> None:
    data = os.urandom(200_000)
    digest = registry.push(data)["digest"]
    for method, content in (("HEAD", b""), ("GET", data)):
        response = registry(method, f"/v2/app/blobs/{digest}", 200)
        assert response.content == content
        assert response.headers["Content-Length"] == str(len(data))
        assert response.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize("size", [0, 1, 65536, 65537])
def test_blobs_of_all_sizes(registry: Api, size: int) -> None:
    data = os.urandom(size)
    assert registry("GET", f"/v2/app/blobs/{registry.push(data)['digest']}", 200).content == data


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("0-0", slice(0, 1)),
        ("0-", slice(0, None)),
        ("5-9", slice(5, 10)),
        ("990-2000", slice(990, None)),
        ("-7", slice(-7, None)),
        ("-2000", slice(0, None)),
        ("999-999", slice(999, None)),
    ],
)
def test_pull_a_part(registry: Api, asked: str, part: slice) -> None:
    data = os.urandom(1000)
    url = f"/v2/app/blobs/{registry.push(data)['digest']}"
    response = registry("GET", url, 206, headers={"Range": f"bytes={asked}"})
    assert response.content == data[part]
    start, end, _ = part.indices(1000)
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/1000"
    assert response.headers["Content-Length"] == str(end - start)


def test_pull_a_part_of_a_large_blob(registry: Api) -> None:
    data = os.urandom(3 << 20)
    url = f"/v2/app/blobs/{registry.push(data)['digest']}"
    assert registry("GET", url, 206, headers={"Range": "bytes=1000001-"}).content == data[1000001:]


@ours
def test_pull_beyond_the_end(registry: Api) -> None:
    url = f"/v2/app/blobs/{registry.push(b'abc')['digest']}"
    assert registry("GET", url, 416, headers={"Range": "bytes=3-"}).headers["Content-Range"] == "bytes */3"


@ours
@pytest.mark.parametrize("asked", ["bytes=", "bytes=-", "lines=1-2", "bytes=2-1", "bytes=0-0,2-2", "bytes=a-b"])
def test_ranges_that_are_none_are_passed_over(registry: Api, asked: str) -> None:
    url = f"/v2/app/blobs/{registry.push(b'abc')['digest']}"
    assert registry("GET", url, 200, headers={"Range": asked}).content == b"abc"


def test_a_blob_that_is_not_there(registry: Api) -> None:
    registry.push(b"abc")
    registry.refused("GET", f"/v2/app/blobs/{MISSING}", 404, "BLOB_UNKNOWN")
    registry.refused("GET", f"/v2/other/blobs/{MISSING}", 404, "BLOB_UNKNOWN")
    assert registry("HEAD", f"/v2/app/blobs/{MISSING}", 404).content == b""


@ours
@pytest.mark.parametrize("digest", ["sha256:abc", "md5:" + "0" * 32, "sha256:" + "G" * 64, "x"])
def test_what_is_no_digest(registry: Api, digest: str) -> None:
    registry.refused("GET", f"/v2/app/blobs/{digest}", 400, "DIGEST_INVALID")


# --- end-4 to end-6: uploads ----------------------------------------------------------------------------------------


def test_post_then_put(registry: Api) -> None:
    response = registry("POST", UPLOADS, 202)
    assert response.headers["Range"] == "0-0"
    assert response.headers["Docker-Upload-UUID"] in response.headers["Location"]
    digest = sha256_digest(b"abc")
    done = registry("PUT", with_query(response.headers["Location"], digest=digest), 201, data=b"abc")
    assert done.headers["Docker-Content-Digest"] == digest
    assert registry("GET", done.headers["Location"], 200).content == b"abc"


@ours
def test_the_uploads_path_without_a_slash(registry: Api) -> None:
    registry("POST", UPLOADS.rstrip("/"), 202)


@ours
def test_a_single_post(registry: Api) -> None:
    digest = sha256_digest(b"abc")
    done = registry("POST", with_query(UPLOADS, digest=digest), 201, data=b"abc")
    assert registry("GET", done.headers["Location"], 200).content == b"abc"
    registry.refused("POST", with_query(UPLOADS, digest=digest), 400, "DIGEST_INVALID", data=b"xyz")


def test_one_patch_without_a_length(registry: Api) -> None:
    """As docker and podman push: chunked transfer coding, no Content-Range."""
    pieces = [os.urandom(size) for size in (1, 70_000, 3, 1 << 20, 500_000)]
    response = registry("PATCH", registry.begin(), 202, data=iter(pieces))
    whole = b"".join(pieces)
    assert response.headers["Range"] == f"0-{len(whole) - 1}"
    digest = sha256_digest(whole)
    registry("PUT", with_query(response.headers["Location"], digest=digest), 201)
    assert registry("GET", f"/v2/app/blobs/{digest}", 200).content == whole


def test_chunks_in_order(registry: Api) -> None:
    data, location = os.urandom(5000), registry.begin()
    for start, end in ((0, 2000), (2000, 4000)):
        headers = {"Content-Range": f"{start}-{end - 1}", "Content-Type": "application/octet-stream"}
        response = registry("PATCH", location, 202, data=data[start:end], headers=headers)
        assert response.headers["Range"] == f"0-{end - 1}"
        location = response.headers["Location"]
        status = registry("GET", location, 204)
        assert status.headers["Range"] == f"0-{end - 1}"
        location = status.headers["Location"]
    registry("PUT", with_query(location, digest=sha256_digest(data)), 201, data=data[4000:])
    assert registry("GET", f"/v2/app/blobs/{sha256_digest(data)}", 200).content == data


@ours
def test_chunks_out_of_order(registry: Api) -> None:
    location = registry.begin()
    registry("PATCH", location, 416, data=b"def", headers={"Content-Range": "3-5"})
    registry("PATCH", location, 202, data=b"abc", headers={"Content-Range": "0-2"})
    for start in (0, 2, 4, 7):
        headers = {"Content-Range": f"{start}-{start + 2}"}
        refused = registry.refused("PATCH", location, 416, "BLOB_UPLOAD_INVALID", data=b"xyz", headers=headers)
        assert (refused.headers["Range"], refused.headers["Location"]) == ("0-2", location)
    registry("PATCH", location, 202, data=b"def", headers={"Content-Range": "3-5"})
    registry("PUT", with_query(location, digest=sha256_digest(b"abcdef")), 201)


@ours
def test_chunks_that_contradict_themselves(registry: Api) -> None:
    location = registry.begin()
    registry.refused("PATCH", location, 400, "SIZE_INVALID", data=b"abc", headers={"Content-Range": "0-9"})
    for said in ("abc", "0", "0-", "2"):
        registry.refused("PATCH", location, 400, "BLOB_UPLOAD_INVALID", data=b"abc", headers={"Content-Range": said})


def test_a_wrong_digest(registry: Api) -> None:
    digest = sha256_digest(b"good")
    registry.refused("PUT", with_query(registry.begin(), digest=digest), 400, "DIGEST_INVALID", data=b"evil")
    for each in (digest, sha256_digest(b"evil")):
        registry("HEAD", f"/v2/app/blobs/{each}", 404)


def test_no_digest(registry: Api) -> None:
    registry.refused("PUT", registry.begin(), 400, "DIGEST_INVALID", data=b"abc")


def test_giving_up(registry: Api) -> None:
    location = registry("PATCH", registry.begin(), 202, data=b"abc").headers["Location"]
    location = registry("GET", location, 204).headers["Location"]
    registry("DELETE", location, 204)
    registry("GET", location, 404)
    registry("DELETE", location, 404)


@ours
def test_an_upload_nobody_knows(registry: Api) -> None:
    location = registry.begin()
    unknown = UPLOADS + "0" * 32
    for method in ("GET", "PATCH", "DELETE"):
        registry.refused(method, unknown, 404, "BLOB_UPLOAD_UNKNOWN")
    registry.refused("PUT", with_query(unknown, digest=MISSING), 404, "BLOB_UPLOAD_UNKNOWN")
    # An upload belongs to its repository.
    registry.refused("GET", location.replace("/app/", "/other/"), 404, "BLOB_UPLOAD_UNKNOWN")
    registry("PUT", with_query(location, digest=sha256_digest(b"abc")), 201, data=b"abc")
    registry.refused("GET", location, 404, "BLOB_UPLOAD_UNKNOWN")


@ours
def test_a_refused_body_leaves_the_connection_usable(registry: Api) -> None:
    body = os.urandom(4 << 20)
    for data in (body, iter([body])):
        registry.refused("PATCH", UPLOADS + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN", data=data)
        registry("GET", "/v2/", 200)


# --- end-11: mounting -----------------------------------------------------------------------------------------------


def test_a_blob_is_of_the_repositories_it_was_pushed_to(registry: Api) -> None:
    digest = registry.push(b"abc")["digest"]
    registry("HEAD", f"/v2/other/blobs/{digest}", 404)
    mounted = registry("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=app", 201)
    assert mounted.headers["Docker-Content-Digest"] == digest
    assert registry("GET", mounted.headers["Location"], 200).content == b"abc"
    registry("GET", f"/v2/other/blobs/{digest}", 200)


def test_mounting_what_is_not_there_begins_an_upload(registry: Api) -> None:
    registry.push(b"abc")
    response = registry("POST", f"/v2/other/blobs/uploads/?mount={MISSING}&from=app", 202)
    registry("PUT", with_query(response.headers["Location"], digest=sha256_digest(b"x")), 201, data=b"x")
    digest = sha256_digest(b"abc")
    registry("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=nowhere", 202)


@ours
def test_mounting_from_anywhere(registry: Api) -> None:
    digest = registry.push(b"abc")["digest"]
    registry("POST", f"/v2/other/blobs/uploads/?mount={digest}", 201)
    registry("POST", f"/v2/other/blobs/uploads/?mount={MISSING}", 202)
    registry.refused("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=../x", 400, "NAME_INVALID")


# --- end-3, end-7: manifests ----------------------------------------------------------------------------------------


def test_push_and_pull_a_manifest(registry: Api) -> None:
    raw = registry.image()
    digest = sha256_digest(raw)
    pushed = registry.tag(raw, "1")
    assert pushed.headers["Docker-Content-Digest"] == digest
    assert pushed.headers["Location"].endswith(f"/v2/app/manifests/{digest}")
    for reference in ("1", digest):
        for method, content in (("HEAD", b""), ("GET", raw)):
            headers = {"Accept": media.OCI_MANIFEST}
            response = registry(method, f"/v2/app/manifests/{reference}", 200, headers=headers)
            assert response.content == content
            assert response.headers["Content-Type"] == media.OCI_MANIFEST
            assert response.headers["Docker-Content-Digest"] == digest
            assert response.headers["Content-Length"] == str(len(raw))


def test_push_by_digest_makes_no_tag(registry: Api) -> None:
    raw = registry.image()
    registry.tag(raw, sha256_digest(raw))
    registry("GET", f"/v2/app/manifests/{sha256_digest(raw)}", 200, headers={"Accept": media.OCI_MANIFEST})
    registry("GET", "/v2/app/manifests/latest", 404)


def test_a_tag_moves(registry: Api) -> None:
    for text in ("one", "two", "one"):
        raw = registry.image(text)
        registry.tag(raw, "1")
        assert registry("GET", "/v2/app/manifests/1", 200, headers={"Accept": media.OCI_MANIFEST}).content == raw


@pytest.mark.parametrize(
    ("kind", "index"),
    [(media.OCI_MANIFEST, media.OCI_INDEX), (media.DOCKER_MANIFEST, media.DOCKER_INDEX)],
)
def test_media_types_are_kept(registry: Api, kind: str, index: str) -> None:
    value = {**json.loads(registry.image()), "mediaType": kind}
    if kind == media.DOCKER_MANIFEST:
        value["config"]["mediaType"] = media.DOCKER_CONFIG
        value["layers"][0]["mediaType"] = media.DOCKER_LAYER_GZIP
    raw = json.dumps(value).encode()
    registry.tag(raw, "image", kind=kind)
    platform = {"os": "linux", "architecture": "amd64"}
    entry = {"mediaType": kind, "digest": sha256_digest(raw), "size": len(raw), "platform": platform}
    list_of_all = document(index, manifests=[entry])
    registry.tag(list_of_all, "index", kind=index)
    for reference, content, content_type in (("image", raw, kind), ("index", list_of_all, index)):
        response = registry("GET", f"/v2/app/manifests/{reference}", 200, headers={"Accept": f"{kind}, {index}"})
        assert (response.content, response.headers["Content-Type"]) == (content, content_type)


@ours
def test_any_artifact(registry: Api) -> None:
    blob = registry.push(b"{}")
    raw = document("application/vnd.example.artifact+json", blobs=[blob], artifactType="text/example")
    registry.tag(raw, "1", kind="application/vnd.example.artifact+json")
    response = registry("GET", "/v2/app/manifests/1", 200)
    assert response.headers["Content-Type"] == "application/vnd.example.artifact+json"


@ours
def test_content_type_and_media_type(registry: Api) -> None:
    raw = registry.image()
    url = "/v2/app/manifests/1"
    registry("PUT", url, 201, data=raw)
    assert registry("GET", url, 200).headers["Content-Type"] == media.OCI_MANIFEST
    registry("PUT", url, 201, data=raw, headers={"Content-Type": f"{media.OCI_MANIFEST}; charset=utf-8"})
    registry.refused("PUT", url, 400, "MANIFEST_INVALID", data=raw, headers={"Content-Type": media.OCI_INDEX})
    plain = json.loads(raw)
    del plain["mediaType"]
    registry.refused("PUT", url, 400, "MANIFEST_INVALID", data=json.dumps(plain))


def test_a_manifest_without_its_blobs(registry: Api) -> None:
    here = registry.push(b"{}")
    absent = {"mediaType": media.OCI_LAYER, "digest": MISSING, "size": 5}
    headers = {"Content-Type": media.OCI_MANIFEST}
    for fields in ({"config": here, "layers": [absent]}, {"config": absent, "layers": []}):
        response = registry("PUT", "/v2/app/manifests/1", 400, data=document(**fields), headers=headers)
        assert "MANIFEST_BLOB_UNKNOWN" in [error["code"] for error in response.json()["errors"]]
    entry = {"mediaType": media.OCI_MANIFEST, "digest": MISSING, "size": 5}
    response = registry(
        "PUT",
        "/v2/app/manifests/1",
        400,
        data=document(media.OCI_INDEX, manifests=[entry]),
        headers={"Content-Type": media.OCI_INDEX},
    )
    assert "MANIFEST_BLOB_UNKNOWN" in [error["code"] for error in response.json()["errors"]]
    registry("GET", "/v2/app/manifests/1", 404)


@ours
def test_a_manifest_with_blobs_of_another_size(registry: Api) -> None:
    config = {**registry.push(b"{}"), "size": 3}
    registry.refused("PUT", "/v2/app/manifests/1", 400, "SIZE_INVALID", data=document(config=config, layers=[]))


@ours
def test_layers_that_are_elsewhere(registry: Api) -> None:
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    layer = {"mediaType": foreign, "digest": MISSING, "size": 5, "urls": ["https://example.org/layer"]}
    registry.tag(document(config=registry.push(b"{}"), layers=[layer]), "1")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'"text"', b'{"schemaVersion": 2, "mediaType": "%s"}' % media.OCI_MANIFEST.encode()],
)
def test_what_is_no_manifest(registry: Api, raw: bytes) -> None:
    headers = {"Content-Type": media.OCI_MANIFEST}
    response = registry("PUT", "/v2/app/manifests/1", 400, data=raw, headers=headers)
    assert response.json()["errors"]
    registry("GET", "/v2/app/manifests/1", 404)


@ours
@pytest.mark.parametrize(
    "fields",
    [
        {"config": None},
        {"config": 1},
        {"config": {"digest": "x", "size": 1}},
        {"config": {"digest": MISSING}},
        {"config": {}, "layers": 5},
        {"layers": []},
        {"schemaVersion": 1},
        {"config": {"digest": MISSING, "size": -1}},
        {"config": {"digest": MISSING, "size": 1}, "layers": ["x"]},
        {"config": {"digest": MISSING, "size": 1}, "subject": "x"},
        {"config": {"digest": MISSING, "size": 1}, "annotations": 5},
    ],
)
def test_what_is_no_image_manifest(registry: Api, fields: dict[str, Any]) -> None:
    registry.refused("PUT", "/v2/app/manifests/1", 400, "MANIFEST_INVALID", data=document(**fields))


def test_a_manifest_under_another_digest(registry: Api) -> None:
    raw = registry.image()
    headers = {"Content-Type": media.OCI_MANIFEST}
    registry.refused("PUT", f"/v2/app/manifests/{MISSING}", 400, "DIGEST_INVALID", data=raw, headers=headers)


def test_a_manifest_that_is_not_there(registry: Api) -> None:
    registry.push(b"abc")
    for reference in ("1", MISSING):
        registry.refused("GET", f"/v2/app/manifests/{reference}", 404, "MANIFEST_UNKNOWN")
        assert registry("HEAD", f"/v2/app/manifests/{reference}", 404).content == b""
    registry.refused("GET", "/v2/other/manifests/1", 404, "MANIFEST_UNKNOWN")
    raw = registry.image()
    registry.tag(raw, "1")
    registry.refused("GET", f"/v2/other/manifests/{sha256_digest(raw)}", 404, "MANIFEST_UNKNOWN")


@ours
@pytest.mark.parametrize("name", ["App", "a//b", "a/../b", "-a", "a/_tags", "a" * 256])
def test_names_that_are_none(registry: Api, name: str) -> None:
    for path in ("manifests/1", "tags/list", f"blobs/{MISSING}"):
        request = requests.Request("GET", f"{registry.base}/v2/{name}/{path}")
        prepared = registry.session.prepare_request(request)
        prepared.url = request.url  # as it is, dots and all
        response = registry.session.send(prepared, timeout=20)
        assert response.status_code in (400, 404)
        assert response.json()["errors"][0]["code"] in ("NAME_INVALID", "NAME_UNKNOWN", "UNSUPPORTED")


@ours
@pytest.mark.parametrize("tag", [".a", "-a", "a" * 129, "a%20b", "%2e%2e", "sha256:abc"])
def test_tags_that_are_none(registry: Api, tag: str) -> None:
    raw = registry.image()
    url = f"/v2/app/manifests/{tag}"
    response = registry("PUT", url, 400, data=raw, headers={"Content-Type": media.OCI_MANIFEST})
    assert response.json()["errors"][0]["code"] in ("TAG_INVALID", "DIGEST_INVALID")


# --- end-8: lists ---------------------------------------------------------------------------------------------------


def test_tags(registry: Api) -> None:
    raw = registry.image()
    for tag in ("b", "a", "C", "1.0", "_x"):
        registry.tag(raw, tag)
    response = registry("GET", "/v2/app/tags/list", 200)
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.json()["name"] == "app"
    assert sorted(response.json()["tags"]) == ["1.0", "C", "_x", "a", "b"]
    registry.refused("GET", "/v2/nowhere/tags/list", 404, "NAME_UNKNOWN")


def pages(registry: Api, url: str, key: str) -> Iterator[list[str]]:
    """Follow the links to the end."""
    while True:
        response = registry("GET", url, 200)
        yield response.json()[key] or []
        match = re.fullmatch(r'<([^>]+)>; ?rel="next"', response.headers.get("Link", ""))
        if not match:
            return
        url = match[1]


@ours
def test_tags_by_pages(registry: Api) -> None:
    raw = registry.image()
    for number in range(7):
        registry.tag(raw, f"t{number}")
    assert list(pages(registry, "/v2/app/tags/list?n=3", "tags")) == [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]
    assert list(pages(registry, "/v2/app/tags/list?n=7", "tags")) == [[f"t{number}" for number in range(7)]]
    assert list(pages(registry, "/v2/app/tags/list?n=0", "tags")) == [[]]
    assert list(pages(registry, "/v2/app/tags/list?last=t4", "tags")) == [["t5", "t6"]]
    assert list(pages(registry, "/v2/app/tags/list?n=1&last=t4x", "tags")) == [["t5"], ["t6"]]
    for wrong in ("-1", "x", "1.5", ""):
        registry.refused("GET", f"/v2/app/tags/list?n={wrong}", 400, "PAGINATION_NUMBER_INVALID")


def test_catalog_by_pages(registry: Api) -> None:
    names = ["a", "a/b", "a/b/c", "b-c", "team/app"]
    for name in names:
        registry.tag(registry.image(name=name), "1", name)
    assert registry("GET", "/v2/_catalog", 200).json() == {"repositories": names}
    assert list(pages(registry, "/v2/_catalog?n=2", "repositories")) == [names[:2], names[2:4], names[4:]]
    assert next(pages(registry, "/v2/_catalog?n=2&last=a/b", "repositories")) == names[2:4]


def test_a_parent_of_a_name_is_no_repository(registry: Api) -> None:
    registry.tag(registry.image(name="team/app"), "1", "team/app")
    registry.refused("GET", "/v2/team/tags/list", 404, "NAME_UNKNOWN")


# --- end-9, end-10: deleting ----------------------------------------------------------------------------------------


def test_delete_a_manifest(registry: Api) -> None:
    one, two = registry.image("one"), registry.image("two")
    for raw, tag in ((one, "1"), (one, "latest"), (two, "2")):
        registry.tag(raw, tag)
    url = f"/v2/app/manifests/{sha256_digest(one)}"
    registry("DELETE", url, 202)
    registry.refused("GET", url, 404, "MANIFEST_UNKNOWN")
    registry.refused("GET", "/v2/app/manifests/1", 404, "MANIFEST_UNKNOWN")
    registry.refused("DELETE", url, 404, "MANIFEST_UNKNOWN")
    assert registry("GET", "/v2/app/tags/list", 200).json()["tags"] == ["2"]
    registry.tag(one, "1")
    assert registry("GET", "/v2/app/manifests/1", 200, headers={"Accept": media.OCI_MANIFEST}).content == one


@ours
def test_delete_a_tag(registry: Api) -> None:
    raw = registry.image()
    for tag in ("1", "2"):
        registry.tag(raw, tag)
    registry("DELETE", "/v2/app/manifests/1", 202)
    registry("GET", "/v2/app/manifests/1", 404)
    assert registry("GET", "/v2/app/manifests/2", 200).content == raw
    registry.refused("DELETE", "/v2/app/manifests/1", 404, "MANIFEST_UNKNOWN")
    registry("DELETE", "/v2/app/manifests/2", 202)
    assert registry("GET", "/v2/app/tags/list", 200).json() == {"name": "app", "tags": []}
    registry("GET", f"/v2/app/manifests/{sha256_digest(raw)}", 200)


def test_delete_a_blob(registry: Api) -> None:
    digest = registry.push(b"abc")["digest"]
    registry.push(b"abc", "other")
    registry("DELETE", f"/v2/app/blobs/{digest}", 202)
    registry.refused("GET", f"/v2/app/blobs/{digest}", 404, "BLOB_UNKNOWN")
    registry.refused("DELETE", f"/v2/app/blobs/{digest}", 404, "BLOB_UNKNOWN")
    registry("GET", f"/v2/other/blobs/{digest}", 200)


# --- end-12: referrers ----------------------------------------------------------------------------------------------


@ours
def test_referrers(registry: Api) -> None:
    image = registry.image()
    subject = {"mediaType": media.OCI_MANIFEST, "digest": sha256_digest(image), "size": len(image)}
    url = f"/v2/app/referrers/{subject['digest']}"
    # A signature may come before what it signs.
    signature = registry.image("sig", subject=subject, artifactType="sig/example", annotations={"by": "me"})
    assert registry.tag(signature, sha256_digest(signature)).headers["OCI-Subject"] == subject["digest"]
    assert "OCI-Subject" not in registry.tag(image, "1").headers
    bill = registry.image("sbom", subject=subject)
    registry.tag(bill, "sbom")
    response = registry("GET", url, 200)
    assert response.headers["Content-Type"] == media.OCI_INDEX
    listed = {entry["digest"]: entry for entry in response.json()["manifests"]}
    assert listed == {
        sha256_digest(signature): {
            "mediaType": media.OCI_MANIFEST,
            "digest": sha256_digest(signature),
            "size": len(signature),
            "artifactType": "sig/example",
            "annotations": {"by": "me"},
        },
        sha256_digest(bill): {
            "mediaType": media.OCI_MANIFEST,
            "digest": sha256_digest(bill),
            "size": len(bill),
            "artifactType": media.OCI_CONFIG,
        },
    }
    filtered = registry("GET", f"{url}?artifactType=sig/example", 200)
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in filtered.json()["manifests"]] == [sha256_digest(signature)]
    registry("DELETE", f"/v2/app/manifests/{sha256_digest(signature)}", 202)
    assert [entry["digest"] for entry in registry("GET", url, 200).json()["manifests"]] == [sha256_digest(bill)]


@ours
def test_no_referrers(registry: Api) -> None:
    for name in ("app", "nowhere"):
        response = registry("GET", f"/v2/{name}/referrers/{MISSING}", 200)
        assert response.json() == {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}
    registry.refused("GET", "/v2/app/referrers/latest", 400, "DIGEST_INVALID")
