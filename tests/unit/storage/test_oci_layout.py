"""An OCI layout as a destination and an origin: whole blobs only, tags that move, other people's entries kept."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ci_plugins.errors import DigestMismatch, DiskFull, ImageNotFound, SizeMismatch, StateError, UsageError
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.oci import Descriptor, Digest, ImageIndex, Manifest, Reference, media, parse_index, sha256_digest
from ci_plugins.storage.blob import BLOCK
from ci_plugins.storage.local import LocalStore
from ci_plugins.storage.oci_layout import OciLayout

ANY = Reference.parse("localhost/app:1")


class Bytes:
    """A source that is no file, and may be wrong about itself."""

    def __init__(self, data: bytes, descriptor: Descriptor | None = None, late: bool = False) -> None:
        self.data = data
        self.final = descriptor or Descriptor(media.OCI_LAYER, sha256_digest(data), len(data))
        self.descriptor: Descriptor | None = None if late else self.final

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        for start in range(offset, len(self.data), 1000):
            yield self.data[start : start + 1000]
        self.descriptor = self.final


@pytest.fixture
def span() -> ActiveSpan:
    return Recorder().begin("upload", "layer")


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    return OciLayout(tmp_path / "image")


def index_of(layout: OciLayout) -> list[dict[str, object]]:
    return json.loads((Path(layout.name) / "index.json").read_text())["manifests"]  # type: ignore[no-any-return]


def left_overs(layout: OciLayout) -> list[str]:
    return [name for name in os.listdir(layout.name) if name.startswith(".")]


def image(layout: OciLayout, span: ActiveSpan, text: str) -> Manifest:
    config = layout.put_blob(Bytes(b'{"config":"%s"}' % text.encode()), span)
    layer = layout.put_blob(Bytes(text.encode() * 500), span)
    return Manifest.of(replace(config, media_type=media.OCI_CONFIG), [layer])


def test_nothing_is_made_before_the_first_write(layout: OciLayout) -> None:
    assert not Path(layout.name).exists()
    assert layout.tags() == []
    assert layout.manifest_digest("1") is None
    assert not layout.has_blob(Bytes(b"x").final)
    with pytest.raises(ImageNotFound, match=r"no image tagged '1' \(tags there: none\)"):
        layout.manifest(ANY)
    assert not Path(layout.name).exists()


def test_push_and_pull(layout: OciLayout, span: ActiveSpan) -> None:
    manifest = image(layout, span, "one")
    layout.put_manifest(manifest, "1")
    assert json.loads((Path(layout.name) / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert layout.manifest_digest("1") == manifest.descriptor.digest
    assert layout.tags() == ["1"]
    again = OciLayout(Path(layout.name))
    assert again.manifest(ANY) == manifest
    assert again.manifest(ANY.at(manifest.descriptor.digest)) == manifest
    assert b"".join(again.blob(ANY, manifest.layers[0])) == b"one" * 500
    assert left_overs(layout) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_blob_still_being_written_is_followed(layout: OciLayout, tmp_path: Path, late: bool) -> None:
    store = LocalStore(tmp_path / "state")
    whole = os.urandom(2 * BLOCK + 3)
    recorder = Recorder()
    with store.spool() as spool, ThreadPoolExecutor() as pool, recorder.span("upload", "layer") as upload:
        spool.write(whole[:BLOCK])
        putting = pool.submit(layout.put_blob, spool, upload)
        spool.write(whole[BLOCK:])
        descriptor = Descriptor(media.OCI_LAYER, sha256_digest(whole), len(whole))
        spool.commit(descriptor)
        assert putting.result(10) == descriptor
    assert b"".join(layout.blob(ANY, descriptor)) == whole
    attributes = recorder.spans()[0].attributes
    assert (attributes["result"], attributes["bytes"], attributes["digest"]) == (
        "uploaded",
        len(whole),
        descriptor.digest,
    )


def test_files_are_linked(layout: OciLayout, tmp_path: Path, span: ActiveSpan) -> None:
    store = LocalStore(tmp_path / "state")
    descriptor = Bytes(b"layer").final
    store.put(b"layer", descriptor)
    layout.put_blob(store.source(descriptor), span)
    target = Path(layout.name) / "blobs/sha256" / descriptor.digest[7:]
    assert target.stat().st_ino == store.path(descriptor.digest).stat().st_ino
    # A broken link of the same file (a truncated one) is replaced.
    target.unlink()
    target.write_bytes(b"la")
    layout.put_blob(store.source(descriptor), span)
    assert target.read_bytes() == b"layer"
    assert left_overs(layout) == []


def test_files_of_another_file_system_are_copied(
    layout: OciLayout, tmp_path: Path, span: ActiveSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "state")
    descriptor = Bytes(b"layer").final
    store.put(b"layer", descriptor)
    layout.put_blob(Bytes(b"first"), span)

    def refuse(*paths: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    layout.put_blob(store.source(descriptor), span)
    target = Path(layout.name) / "blobs/sha256" / descriptor.digest[7:]
    assert target.read_bytes() == b"layer"
    assert target.stat().st_ino != store.path(descriptor.digest).stat().st_ino


def test_a_blob_that_is_there_is_not_read(layout: OciLayout) -> None:
    recorder = Recorder()
    with recorder.span("upload", "first") as span:
        layout.put_blob(Bytes(b"layer"), span)

    class Unreadable(Bytes):
        def blocks(self, offset: int = 0) -> Iterator[bytes]:
            raise AssertionError

    with recorder.span("upload", "second") as span:
        layout.put_blob(Unreadable(b"layer"), span)
    assert [each.attributes["result"] for each in recorder.spans()] == ["uploaded", "exists"]


@pytest.mark.parametrize(("digest_of", "size", "error"), [(b"other", 5, DigestMismatch), (b"layer", 4, SizeMismatch)])
@pytest.mark.parametrize("late", [False, True])
def test_wrong_bytes_are_not_taken(
    layout: OciLayout, span: ActiveSpan, digest_of: bytes, size: int, error: type[Exception], late: bool
) -> None:
    said = Descriptor(media.OCI_LAYER, sha256_digest(digest_of), size)
    with pytest.raises(error):
        layout.put_blob(Bytes(b"layer", said, late), span)
    assert not layout.has_blob(said)
    assert os.listdir(Path(layout.name) / "blobs/sha256") == []
    assert left_overs(layout) == []


def test_the_writers_failure_is_passed_on(layout: OciLayout, tmp_path: Path, span: ActiveSpan) -> None:
    with LocalStore(tmp_path / "state").spool() as spool:
        spool.write(b"half")
        spool.abort(RuntimeError("the step failed"))
        with pytest.raises(RuntimeError, match="the step failed"):
            layout.put_blob(spool, span)
    assert left_overs(layout) == []


def test_disk_full(layout: OciLayout, span: ActiveSpan, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.put_blob(Bytes(b"first"), span)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull):
        layout.put_blob(Bytes(b"second"), span)
    assert left_overs(layout) == []


# --- index.json -----------------------------------------------------------------------------------------------------


def test_tags_move(layout: OciLayout, span: ActiveSpan) -> None:
    one, two = image(layout, span, "one"), image(layout, span, "two")
    layout.put_manifest(one, "1")
    layout.put_manifest(one, "latest")
    layout.put_manifest(two, "latest")
    assert (layout.manifest_digest("1"), layout.manifest_digest("latest")) == (
        one.descriptor.digest,
        two.descriptor.digest,
    )
    assert sorted(layout.tags()) == ["1", "latest"]
    assert len(index_of(layout)) == 2


def test_untagged_images_are_listed_until_something_holds_them(layout: OciLayout, span: ActiveSpan) -> None:
    one, two = image(layout, span, "one"), image(layout, span, "two")
    for _ in range(2):
        layout.put_manifest(one, None)
        layout.put_manifest(two, None)
    assert [entry["digest"] for entry in index_of(layout)] == [one.descriptor.digest, two.descriptor.digest]
    raw = {"schemaVersion": 2, "manifests": [one.descriptor.to_json(), two.descriptor.to_json()]}
    index = parse_index(json.dumps(raw).encode(), media.OCI_INDEX)
    layout.put_manifest(index, "1")
    assert [entry["digest"] for entry in index_of(layout)] == [index.descriptor.digest]
    found = layout.manifest(ANY)
    assert isinstance(found, ImageIndex)
    assert found.manifests == index.manifests


def test_an_untagged_put_of_a_tagged_image_adds_nothing(layout: OciLayout, span: ActiveSpan) -> None:
    one = image(layout, span, "one")
    layout.put_manifest(one, "1")
    layout.put_manifest(one, None)
    assert layout.tags() == ["1"]
    assert len(index_of(layout)) == 1


def test_what_others_wrote_is_kept(tmp_path: Path, span: ActiveSpan) -> None:
    theirs = {"mediaType": media.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 3, "artifactType": "x/y"}
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [theirs], "annotations": {}}))
    layout = OciLayout(tmp_path)
    layout.put_manifest(image(layout, span, "one"), "1")
    assert index_of(layout)[0] == theirs
    assert json.loads((tmp_path / "index.json").read_text())["annotations"] == {}


def test_a_manifest_without_its_blobs_is_refused(layout: OciLayout, span: ActiveSpan) -> None:
    manifest = image(layout, span, "one")
    (Path(layout.name) / "blobs/sha256" / manifest.layers[0].digest[7:]).unlink()
    with pytest.raises(StateError, match="does not hold sha256:"):
        layout.put_manifest(manifest, "1")
    assert layout.tags() == []


def test_many_tags_at_once(layout: OciLayout, span: ActiveSpan) -> None:
    images = [image(layout, span, f"image{number}") for number in range(8)]
    others = [OciLayout(Path(layout.name)) for _ in images]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(OciLayout.put_manifest, others, images, map(str, range(8))))
    assert sorted(layout.tags()) == [str(number) for number in range(8)]
    assert {layout.manifest_digest(str(number)) for number in range(8)} == {each.descriptor.digest for each in images}


# --- what is not right ----------------------------------------------------------------------------------------------


def test_other_directories_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match="is not an OCI image layout, and it is not empty"):
        OciLayout(tmp_path)
    with pytest.raises(UsageError, match="not a directory"):
        OciLayout(tmp_path / "thesis.txt")
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("content", ['{"imageLayoutVersion": "2.0.0"}', "[]", "not json"])
def test_other_versions_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "oci-layout").write_text(content)
    with pytest.raises(UsageError, match="oci-layout"):
        OciLayout(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"manifests": 1}', '{"manifests": ["x"]}'])
def test_a_broken_index_is_a_state_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text(content)
    layout = OciLayout(tmp_path)
    with pytest.raises(StateError, match=r"index\.json"):
        layout.tags()


def test_damaged_content_is_noticed(layout: OciLayout, span: ActiveSpan) -> None:
    manifest = image(layout, span, "one")
    layout.put_manifest(manifest, "1")
    folder = Path(layout.name) / "blobs/sha256"
    layer = manifest.layers[0]
    (folder / layer.digest[7:]).write_bytes(b"x" * layer.size)
    with pytest.raises(DigestMismatch):
        list(layout.blob(ANY, layer))
    for size in (0, layer.size - 1, layer.size + 1):
        (folder / layer.digest[7:]).write_bytes(b"x" * size)
        with pytest.raises(SizeMismatch, match=f"has {size} bytes instead of {layer.size}"):
            list(layout.blob(ANY, layer))
    (folder / layer.digest[7:]).unlink()
    with pytest.raises(ImageNotFound):
        list(layout.blob(ANY, layer))
    (folder / manifest.descriptor.digest[7:]).write_bytes(b"{}")
    with pytest.raises(DigestMismatch):
        layout.manifest(ANY)
    (folder / manifest.descriptor.digest[7:]).unlink()
    with pytest.raises(ImageNotFound, match="no manifest"):
        layout.manifest(ANY)


def test_a_blob_is_not_a_manifest(layout: OciLayout, span: ActiveSpan) -> None:
    descriptor = layout.put_blob(Bytes(b"[]"), span)
    with pytest.raises(ImageNotFound, match="not an image manifest"):
        layout.manifest(ANY.at(Digest(descriptor.digest)))


def test_left_overs_of_a_killed_process_are_removed(layout: OciLayout, span: ActiveSpan) -> None:
    layout.put_blob(Bytes(b"one"), span)
    for name in ("old", "young"):
        (Path(layout.name) / f".ci-plugins-{name}").write_bytes(b"x")
    os.utime(Path(layout.name) / ".ci-plugins-old", (1, 1))
    OciLayout(Path(layout.name)).put_blob(Bytes(b"two"), span)
    assert left_overs(layout) == [".ci-plugins-young"]


def test_mounting_is_not_possible(layout: OciLayout) -> None:
    assert layout.mount_blob(Bytes(b"x").final, ANY) is False
