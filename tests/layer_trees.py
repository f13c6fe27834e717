"""What a directory holds, in a form two trees can be compared by; and archives made by hand for the layer tests."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from ci_plugins.layer.names import belongs_in_layer


def describe(root: Path, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """Every path below (and the root as "") with all that an image keeps of it. Times in whole seconds."""
    found: dict[str, tuple[Any, ...]] = {}
    names: dict[tuple[int, int], str] = {}
    paths = sorted(
        os.path.relpath(os.path.join(directory, name), root)
        for directory, folders, files in os.walk(root)
        for name in (*folders, *files)
    )
    for path in ("", *paths):
        where = root / path
        status = where.lstat()
        if stat.S_ISSOCK(status.st_mode):
            continue
        detail: Any = None
        if stat.S_ISREG(status.st_mode):
            detail = status.st_size, hashlib.sha256(where.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            detail = os.readlink(where)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            detail = os.major(status.st_rdev), os.minor(status.st_rdev)
        first = path
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            first = names.setdefault((status.st_dev, status.st_ino), path)
        xattrs = {
            name: os.getxattr(where, name, follow_symlinks=False)
            for name in os.listxattr(where, follow_symlinks=False)
            if belongs_in_layer(name)
        }
        mtime = status.st_mtime_ns // 1_000_000_000 if times and path else None
        found[path] = (oct(status.st_mode), status.st_uid, status.st_gid, detail, first, xattrs, mtime)
    return found


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member for `archive`; owned by who runs the test, so that unpacking needs no rights."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = os.geteuid(), os.getegid()
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed archive, written by Python's tarfile: it takes any name."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, BytesIO(data))
    return buffer.getvalue()
