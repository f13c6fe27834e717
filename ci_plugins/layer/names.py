"""How paths, whiteouts and extended attributes are named inside a layer (OCI image spec, layer.md)."""

from __future__ import annotations

from ci_plugins.errors import CorruptLayer

#: `dir/.wh.name` says that `dir/name` of the layers below is gone.
WHITEOUT_PREFIX = ".wh."
#: `dir/.wh..wh..opq` says that all the layers below hold in `dir` is gone.
OPAQUE_MARKER = ".wh..wh..opq"
#: Book-keeping of AUFS ("dir/.wh..wh.plnk"), which Docker's graph drivers skip as well.
WHITEOUT_META_PREFIX = ".wh..wh."

#: Set on a directory of a snapshot, it is what an opaque marker is in a tar (kernel: overlayfs.rst).
OVERLAY_OPAQUE = "trusted.overlay.opaque"

_OVERLAY_PREFIXES = ("trusted.overlay.", "user.overlay.")


def clean(name: str) -> str:
    """A member's name as an `Entry.path`: relative, without "." and "//"; ".." is resolved by name as Go's
    `filepath.Clean` does, and must not lead out. Raises CorruptLayer."""
    parts = [part for part in name.split("/") if part and part != "."]
    if ".." in parts:
        parts = _without_dotdot(parts, name)
    return "/".join(parts)


def _without_dotdot(parts: list[str], name: str) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part != "..":
            kept.append(part)
        elif kept:
            kept.pop()
        else:
            raise CorruptLayer(f"the archive holds {name!r}, a path that leads out of the image")
    return kept


def belongs_in_layer(xattr: str) -> bool:
    """Whether an extended attribute is part of an image.

    Those of overlayfs describe a mount, not a file (a foreign `redirect` would let a layer name any path below);
    of `security.*` only capabilities mean the same on every host.
    """
    if xattr.startswith("security."):
        return xattr == "security.capability"
    return not xattr.startswith(_OVERLAY_PREFIXES)
