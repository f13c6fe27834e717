"""Files of an image as a source, read from snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ci_plugins.context import ImageTree
from ci_plugins.errors import CorruptLayer
from ci_plugins.layer.copy import CopyRequest, copy_items
from ci_plugins.layer.entry import Entry, EntryType
from ci_plugins.layer.toc import Toc
from ci_plugins.layer.tree import LayerTree
from ci_plugins.oci import sha256_digest

FILE, DIRECTORY = EntryType.FILE, EntryType.DIRECTORY


def snapshots(root: Path, asked: list[int]) -> Callable[[int], Path]:
    def snapshot(layer: int) -> Path:
        asked.append(layer)
        return root / str(layer)

    return snapshot


@pytest.fixture
def image(tmp_path: Path) -> tuple[ImageTree, list[int]]:
    for name, data in (("0/app/a", "aa"), ("0/app/b", "old"), ("1/app/b", "new!")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(data)
    (tmp_path / "0/app/c").hardlink_to(tmp_path / "0/app/a")
    tree = LayerTree(
        (
            Toc(
                (
                    Entry("app", DIRECTORY, 0o750, 7, 8),
                    Entry("app/a", FILE, 0o600, 7, 8, size=2),
                    Entry("app/b", FILE, 0o600, size=3),
                    Entry("app/c", EntryType.HARDLINK, link="app/a"),
                )
            ),
            Toc((Entry("app/b", FILE, 0o644, 9, 9, size=4), Entry("bin", EntryType.SYMLINK, 0o777, link="/app"))),
        )
    )
    asked: list[int] = []
    return ImageTree(tree, snapshots(tmp_path, asked)), asked


def test_looking_needs_no_snapshot(image: tuple[ImageTree, list[int]]) -> None:
    tree, asked = image
    assert [entry.path for entry in tree.walk()] == ["app", "app/a", "app/b", "app/c", "bin"]
    assert tree.children("app") == ["a", "b", "c"]
    assert tree.resolve("../bin/a") == "app/a"
    assert tree.identity("app/a") == tree.identity("app/c") != tree.identity("app/b")
    assert asked == []


def test_bytes_come_from_the_layer_that_holds_them(image: tuple[ImageTree, list[int]], tmp_path: Path) -> None:
    tree, asked = image
    assert tree.content("app/b") == str(tmp_path / "1/app/b")
    assert asked == [1]
    assert tree.content_digests(["app/c", "app/b", "app/a"]) == [
        sha256_digest(b"aa"),
        sha256_digest(b"new!"),
        sha256_digest(b"aa"),
    ]
    assert sorted(asked) == [0, 1]


def test_copy_keeps_the_images_owners(image: tuple[ImageTree, list[int]]) -> None:
    items = copy_items(CopyRequest(("/bin/",), "/srv/x", now_ns=5), image[0], LayerTree())
    shown = {
        item.entry.path: (item.entry.type.value, item.entry.mode, item.entry.uid, item.entry.gid) for item in items
    }
    assert shown == {
        "srv": ("d", 0o755, 0, 0),
        "srv/x": ("d", 0o755, 0, 0),
        "srv/x/a": ("f", 0o600, 7, 8),
        "srv/x/b": ("f", 0o644, 9, 9),
        "srv/x/c": ("h", 0o600, 7, 8),
    }
    chowned = copy_items(CopyRequest(("bin/b",), "/b", owner=(1, 2)), image[0], LayerTree())
    assert [(item.entry.path, item.entry.uid, item.entry.gid) for item in chowned] == [("b", 1, 2)]


@pytest.mark.parametrize("damage", ["link", "directory", "gone", "size"])
def test_a_snapshot_that_is_not_what_its_layer_says(
    image: tuple[ImageTree, list[int]], tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "1/app/b"
    if damage == "directory":
        (tmp_path / "1/app").rename(tmp_path / "elsewhere")
        (tmp_path / "1/app").symlink_to(tmp_path / "elsewhere")
    else:
        file.unlink()
        if damage == "link":
            file.symlink_to("/etc/passwd")
        elif damage == "size":
            file.write_text("longer than it was")
    with pytest.raises(CorruptLayer, match=r"layer 2"):
        image[0].content("app/b")
