"""Images of a registry as somebody else reads them: merged by umoci, compared file by file and word by word."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import run
from tests.servers import DockerRegistry

#: files older than this keep a time that somebody gave them; later ones were made by the build
_MADE_BY_BUILD = 1_700_000_000
_NOW = "of the build"
#: what of a config decides how the image runs, and its author
_RUNS = (
    "Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes", "StopSignal", "Healthcheck",
    "Shell", "OnBuild",
)  # fmt: skip


@dataclass(frozen=True)
class PushedImage:
    """`files`: what lstat, the content and the extended attributes say, by path; no path for the root itself."""

    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, object]]

    @property
    def history(self) -> list[bool]:
        """Which entries have a layer."""
        return [not entry.get("empty_layer", False) for entry in self.config.get("history") or ()]


def read_image(registry: DockerRegistry, repository: str, tag: str, folder: Path) -> PushedImage:
    """Unpack an image to `folder`, which must not exist, and look. The OCI layout umoci wants is made of links to the
    registry's own files."""
    link = registry.root / f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
    manifest = link.read_text()
    document = json.loads(registry.blob_path(manifest).read_bytes())
    layout = folder / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    for digest in {manifest, document["config"]["digest"], *(layer["digest"] for layer in document["layers"] or ())}:
        (layout / "blobs" / digest.replace(":", "/")).symlink_to(registry.blob_path(digest))
    descriptor = {
        "mediaType": document["mediaType"],
        "digest": manifest,
        "size": registry.blob_path(manifest).stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": "image"},
    }
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    root = folder / "root"
    run("umoci", "raw", "unpack", "--image", f"{layout}:image", str(root))
    return PushedImage(json.loads(registry.blob_path(document["config"]["digest"]).read_bytes()), _files(root))


def differences(ours: PushedImage, theirs: PushedImage) -> Iterator[str]:
    """One line each: what, ours, theirs."""
    for path in sorted(ours.files.keys() | theirs.files.keys()):
        mine, other = ours.files.get(path), theirs.files.get(path)
        if mine is None or other is None:
            yield f"/{path}: {'missing' if mine is None else 'there'} | {'missing' if other is None else 'there'}"
            continue
        for name in sorted(mine.keys() | other.keys()):
            if mine.get(name) != other.get(name) and not _is_time_of_build(name, mine, other):
                yield f"/{path}: {name} {mine.get(name)} | {other.get(name)}"
    for name in ("architecture", "os", "author"):
        if ours.config.get(name) != theirs.config.get(name):
            yield f"{name}: {ours.config.get(name)!r} | {theirs.config.get(name)!r}"
    for name in _RUNS:
        mine, other = (image.config.get("config", {}).get(name) or None for image in (ours, theirs))
        if mine != other:
            yield f"{name}: {mine!r} | {other!r}"
    if len(ours.history) != len(theirs.history):
        yield f"history: {len(ours.history)} entries | {len(theirs.history)} entries"
    elif any(mine and not other for mine, other in zip(ours.history, theirs.history, strict=True)):
        # the other way round is a step that changed nothing
        yield f"history: {ours.history} | {theirs.history}"


def _is_time_of_build(name: str, ours: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    """The time of a directory that one of the builders made or changed."""
    return name == "time" and ours["type"] == theirs["type"] == "d" and _NOW in (ours["time"], theirs["time"])


def _files(root: Path) -> dict[str, dict[str, object]]:
    paths = [path.relative_to(root) for path in root.rglob("*")]
    names: dict[int, list[str]] = {}
    for path in paths:
        names.setdefault((root / path).lstat().st_ino, []).append(str(path))
    return {str(path): _file(root / path, names) for path in paths}


def _file(path: Path, names: Mapping[int, list[str]]) -> dict[str, object]:
    status = path.lstat()
    found: dict[str, object] = {
        "type": stat.filemode(status.st_mode)[0],
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{status.st_uid}:{status.st_gid}",
        "names": " ".join(sorted(names[status.st_ino])) if len(names[status.st_ino]) > 1 else "",
        "time": int(status.st_mtime) if status.st_mtime < _MADE_BY_BUILD else _NOW,
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)},
    }
    if stat.S_ISREG(status.st_mode):
        data = path.read_bytes()
        found["content"] = data if len(data) < 2000 else hashlib.sha256(data).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        found["link"] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["device"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return found


def _xattrs(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux")
