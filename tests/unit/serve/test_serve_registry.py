"""The registry as a function: what requests from outside (test_serve_conformance.py) cannot see or force."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_plugins.errors import DiskFull, StateError
from ci_plugins.oci import media, sha256_digest
from ci_plugins.serve import uploads
from ci_plugins.serve.body import Body
from ci_plugins.serve.documents import read_document
from ci_plugins.serve.refusal import ClientGone, Refusal
from ci_plugins.serve.registry import LARGEST_MANIFEST, FilePart, Registry, Request, Response
from ci_plugins.serve.repositories import checked_name, checked_reference
from ci_plugins.storage.blob import BLOCK


class Client:
    """Calls the registry without a network."""

    def __init__(self, root: Path) -> None:
        self.registry = Registry(root)
        self.root = root

    def __call__(
        self, method: str, path: str, body: bytes = b"", announced: int | None = None, **headers: str
    ) -> Response:
        """`announced` is a Content-Length beyond what arrives: the client leaves in the middle."""
        path, _, query = path.partition("?")
        pairs = dict(item.split("=", 1) for item in query.split("&") if item)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reader = io.BufferedReader(io.BytesIO(body))
        length = len(body) if announced is None else announced
        return self.registry.handle(Request(method, path, pairs, named, Body(reader, length)))

    def begin(self, name: str = "app") -> str:
        return self("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]

    def push(self, data: bytes, name: str = "app") -> str:
        digest = sha256_digest(data)
        response = self("PUT", f"{self.begin(name)}?digest={digest}", data)
        assert response.status == 201
        return digest

    def pull(self, digest: str, name: str = "app") -> tuple[int, bytes]:
        response = self("GET", f"/v2/{name}/blobs/{digest}")
        assert isinstance(response.body, FilePart)
        with response.body.file as file:
            return response.status, os.pread(file.fileno(), response.body.length, response.body.offset)

    def manifest(self, **fields: object) -> bytes:
        config = b"{}"
        self.push(config)
        described = {"mediaType": media.OCI_CONFIG, "digest": sha256_digest(config), "size": len(config)}
        value = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described, "layers": [], **fields}
        return json.dumps(value).encode()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


# --- uploads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blobs_of_all_sizes(client: Client, size: int) -> None:
    data = os.urandom(size)
    assert client.pull(client.push(data)) == (200, data)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 3 * BLOCK), max_size=5))
def test_an_upload_in_pieces(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    client = Client(tmp_path_factory.mktemp("state"))
    data = os.urandom(3 * BLOCK)
    location = client.begin()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        response = client("PATCH", location, data[start:end])
        assert response.headers["Range"] == f"0-{max(end - 1, 0)}"
    digest = sha256_digest(data)
    assert client("PUT", f"{location}?digest={digest}").status == 201
    assert client.pull(digest) == (200, data)


@pytest.mark.parametrize("restart", [False, True])
def test_what_arrived_is_kept_when_the_client_leaves(client: Client, restart: bool) -> None:
    data = os.urandom(2 * BLOCK + 100)
    location = client.begin()
    with pytest.raises(ClientGone):
        client("PATCH", location, data[: BLOCK + 50], announced=len(data))
    if restart:
        client = Client(client.root)
    assert client("GET", location).headers["Range"] == f"0-{BLOCK + 49}"
    digest = sha256_digest(data)
    assert client("PUT", f"{location}?digest={digest}", data[BLOCK + 50 :]).status == 201
    assert client.pull(digest) == (200, data)


def test_a_single_post_that_is_cut_leaves_nothing(client: Client) -> None:
    with pytest.raises(ClientGone):
        client("POST", f"/v2/app/blobs/uploads/?digest={sha256_digest(b'abc')}", b"a", announced=3)
    assert list(client.root.glob("repositories/app/_uploads/*")) == []


def test_nothing_is_visible_before_it_is_verified(client: Client) -> None:
    digest = sha256_digest(b"good")
    location = client.begin()
    client("PATCH", location, b"evil")
    with pytest.raises(Refusal, match="4 bytes were received and hash to sha256:") as caught:
        client("PUT", f"{location}?digest={digest}")
    assert (caught.value.status, caught.value.code) == (400, "DIGEST_INVALID")
    for path in (f"/v2/app/blobs/{digest}", f"/v2/app/blobs/{sha256_digest(b'evil')}", location):
        with pytest.raises(Refusal, match="has no"):
            client("GET", path)
    assert [path for path in client.root.rglob("*") if path.is_file()] == []


def test_disk_full_in_the_middle(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3 * BLOCK)
    location = client.begin()
    real = os.pwrite

    def nearly_full(fd: int, block: memoryview, offset: int) -> int:
        if offset + len(block) > BLOCK + 1000:
            if offset >= BLOCK + 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, block[: BLOCK + 1000 - offset], offset)
        return real(fd, block, offset)

    monkeypatch.setattr(os, "pwrite", nearly_full)
    with pytest.raises(DiskFull, match="no space left"):
        client("PATCH", location, data)
    monkeypatch.undo()
    # What fitted is kept, and hashed once.
    kept = int(client("GET", location).headers["Range"].partition("-")[2]) + 1
    assert kept in (BLOCK, BLOCK + 1000)
    digest = sha256_digest(data)
    assert client("PUT", f"{location}?digest={digest}", data[kept:]).status == 201
    assert client.pull(digest) == (200, data)


def test_requests_on_one_upload_go_in_turn(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_PATIENCE", 0.05)
    location = client.begin()
    read, write = os.pipe()
    with ThreadPoolExecutor() as pool, os.fdopen(read, "rb") as reader:
        body = Body(reader, 6)
        sending = pool.submit(client.registry.handle, Request("PATCH", location, {}, {}, body))
        os.write(write, b"abc")
        while not client.registry._uploads._open[client.root / "repositories" / location_path(location)].lock.locked():
            time.sleep(0.001)
        with pytest.raises(Refusal, match="another request") as caught:
            client("PATCH", location, b"xyz")
        assert caught.value.status == 409
        os.write(write, b"def")
        os.close(write)
        assert sending.result(5).status == 202
    assert client("PUT", f"{location}?digest={sha256_digest(b'abcdef')}").status == 201


def location_path(location: str) -> str:
    name, _, number = location.removeprefix("/v2/").partition("/blobs/uploads/")
    return f"{name}/_uploads/{number}"


def test_abandoned_uploads_are_removed_at_the_start(client: Client) -> None:
    old, young = client.begin("team/app"), client.begin("team/app")
    path = client.root / "repositories" / location_path(old)
    os.utime(path, (1, 1))
    again = Client(client.root)
    with pytest.raises(Refusal, match="no upload"):
        again("GET", old)
    assert again("GET", young).status == 204


@pytest.mark.parametrize("id", ["..", "%2e%2e", "x" * 32, "../" * 3, "A" * 32, "0" * 31])
def test_upload_ids_are_ours(client: Client, id: str) -> None:
    with pytest.raises(Refusal) as caught:
        client("GET", f"/v2/app/blobs/uploads/{id}")
    assert caught.value.status == 404


def test_the_same_blob_from_many_clients(client: Client) -> None:
    data = os.urandom(BLOCK + 5)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda number: client.push(data, f"team/app{number % 3}"), range(16)))
    assert len(digests) == 1
    assert all(client.pull(digests.copy().pop(), f"team/app{number}") == (200, data) for number in range(3))
    assert list(client.root.glob("repositories/**/_uploads/*")) == []


# --- blobs ----------------------------------------------------------------------------------------------------------


def test_a_truncated_blob_is_not_there_and_can_be_pushed_again(client: Client) -> None:
    digest = client.push(b"whole")
    (client.root / "blobs/sha256" / digest[7:]).write_bytes(b"who")
    for name in ("HEAD", "GET"):
        with pytest.raises(Refusal, match="has no blob"):
            client(name, f"/v2/app/blobs/{digest}")
    client.push(b"whole")
    assert client.pull(digest) == (200, b"whole")


def test_a_blob_removed_from_the_store_by_others(client: Client) -> None:
    digest = client.push(b"whole")
    (client.root / "blobs/sha256" / digest[7:]).unlink()
    with pytest.raises(Refusal) as caught:
        client("GET", f"/v2/app/blobs/{digest}")
    assert caught.value.code == "BLOB_UNKNOWN"
    assert client("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=app").status == 202
    assert client("POST", f"/v2/other/blobs/uploads/?mount={digest}").status == 202


def test_a_truncated_blob_is_not_mounted(client: Client) -> None:
    digest = sha256_digest(b"whole")
    path = client.root / "blobs/sha256" / digest[7:]
    path.write_bytes(b"who")
    assert client("POST", f"/v2/app/blobs/uploads/?mount={digest}").status == 202
    path.write_bytes(b"whole")  # as a build puts it there
    assert client("POST", f"/v2/app/blobs/uploads/?mount={digest}").status == 201
    assert client.pull(digest) == (200, b"whole")


def test_links_that_a_power_cut_left_empty(client: Client) -> None:
    raw = client.manifest()
    client("PUT", "/v2/app/manifests/1", raw, Content_Type=media.OCI_MANIFEST)
    digest = client.push(b"whole")
    for link in (f"_blobs/{digest[7:]}", "_tags/1"):
        (client.root / "repositories/app" / link).write_bytes(b"")
    for path in (f"/v2/app/blobs/{digest}", "/v2/app/manifests/1"):
        with pytest.raises(Refusal) as caught:
            client("GET", path)
        assert caught.value.status == 404


# --- manifests ------------------------------------------------------------------------------------------------------


def test_a_tag_is_old_or_new_while_it_moves(client: Client) -> None:
    """Readers see a whole manifest at every moment, and never an error."""
    bodies = {sha256_digest(raw): raw for raw in (client.manifest(annotations={"n": str(n)}) for n in range(5))}
    client("PUT", "/v2/app/manifests/1", next(iter(bodies.values())), Content_Type=media.OCI_MANIFEST)
    ended = threading.Event()

    def move(number: int) -> None:
        raw = list(bodies.values())
        for turn in range(30):
            client("PUT", "/v2/app/manifests/1", raw[(turn + number) % 5], Content_Type=media.OCI_MANIFEST)

    def watch() -> int:
        seen = 0
        while not ended.is_set():
            response = client("GET", "/v2/app/manifests/1")
            assert response.body == bodies[sha256_digest(response.body)]  # type: ignore[arg-type]
            seen += 1
        return seen

    with ThreadPoolExecutor() as pool:
        watching = pool.submit(watch)
        list(pool.map(move, range(3)))
        ended.set()
        assert watching.result(5) > 0
    assert len(client.registry._repositories.tags("app")) == 1


def test_a_manifest_that_cannot_be_stored_moves_no_tag(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = client.manifest(), client.manifest(annotations={"a": "b"})
    client("PUT", "/v2/app/manifests/1", first, Content_Type=media.OCI_MANIFEST)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        client("PUT", "/v2/app/manifests/1", second, Content_Type=media.OCI_MANIFEST)
    monkeypatch.undo()
    assert client("GET", "/v2/app/manifests/1").body == first


def test_a_manifest_has_a_largest_size(client: Client) -> None:
    with pytest.raises(Refusal) as caught:
        client("PUT", "/v2/app/manifests/1", b" " * (LARGEST_MANIFEST + 1))
    assert caught.value.status == 413


@given(raw=st.binary(max_size=40))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    with pytest.raises(Refusal, match="not a manifest"):
        read_document(raw, media.OCI_MANIFEST)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("mediaType", "config", "layers", "manifests", "blobs", "subject", "annotations", "artifactType")


@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON), kind=st.sampled_from(["", "a/b", *sorted(media.MANIFESTS)])
)
def test_any_document_is_read_or_refused(fields: dict[str, object], kind: str) -> None:
    with suppress(Refusal):  # and no other exception
        read_document(json.dumps({"schemaVersion": 2, **fields}).encode(), kind)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Refusal):
        read_document(b'{"a":' * 100_000, media.OCI_MANIFEST)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a/b", "a-b/c_d/e.f", "0/1", "blobs", "manifests/tags", "a" * 255])
def test_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "a/../b", "..", "/a", "a/", "a//b", "_uploads", "a/_tags", "a:b", "a@b", "a b", ".a", "-a", "a" * 256],
)
def test_not_names(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        checked_name(name)
    assert (caught.value.status, caught.value.code) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    "tag", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "x" * 129, "sha256:abc", "sha512:" + "0" * 128]
)
def test_not_references(tag: str) -> None:
    with pytest.raises(Refusal) as caught:
        checked_reference(tag)
    assert caught.value.status == 400


@given(text=st.text(max_size=30))
def test_whatever_is_accepted_stays_in_its_directory(text: str) -> None:
    for check in (checked_name, checked_reference):
        try:
            accepted = check(text)
        except Refusal:
            continue
        assert not {"..", "", "."} & set(accepted.split("/"))
        assert "\0" not in accepted


def test_the_directory_must_be_usable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        Registry(tmp_path / "file")
