"""index.json of an OCI image layout: which manifests it has, and their tags."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ci_plugins.errors import StateError, state_errors
from ci_plugins.oci import Descriptor, Digest, media
from ci_plugins.storage.files import write_atomically

_REF_NAME = "org.opencontainers.image.ref.name"


class LayoutIndex:
    """Entries and fields that others wrote are kept. Changed under a lock on `oci-layout`; readers see the old content
    or the new."""

    def __init__(self, layout: Path) -> None:
        self._path = layout / "index.json"
        self._lock = layout / "oci-layout"

    def find(self, target: str) -> dict[str, Any] | None:
        """The entry with a tag or a digest."""
        for entry in self._read()["manifests"]:
            if target in (_tag_of(entry), entry.get("digest")):
                return dict(entry)
        return None

    def tags(self) -> list[str]:
        """In the order of the file."""
        return [tag for entry in self._read()["manifests"] if (tag := _tag_of(entry))]

    def create(self) -> None:
        """Write it, without entries, if it is not there."""
        if not self._path.exists():
            with self._locked():
                pass

    def add(self, descriptor: Descriptor, tag: str | None, below: Set[Digest]) -> None:
        """List a manifest. It takes the tag from another, and the place of untagged entries it reaches (`below`)."""
        added: dict[str, Any] = descriptor.to_json()
        if tag:
            added["annotations"] = {_REF_NAME: tag}
        with self._locked() as index:
            kept = [entry for entry in index["manifests"] if not _replaced(entry, descriptor, tag, below)]
            listed = tag is None and any(entry.get("digest") == descriptor.digest for entry in kept)
            index["manifests"] = kept if listed else [*kept, added]

    def _read(self) -> dict[str, Any]:
        """Raises StateError."""
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}
        except (ValueError, OSError) as error:
            raise StateError(f"cannot read {self._path}: {error}", remedy="Name another directory.") from error
        if not isinstance(value, dict) or not _are_objects(value.setdefault("manifests", [])):
            raise StateError(f"{self._path} is not an OCI image index", remedy="Name another directory.")
        return value

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        with state_errors(self._path), self._lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read()
            yield index
            write_atomically(self._path, json.dumps(index, separators=(",", ":")).encode())


def _replaced(entry: dict[str, Any], new: Descriptor, tag: str | None, below: Set[Digest]) -> bool:
    old = _tag_of(entry)
    if old is not None:
        return old == tag
    return entry.get("digest") == new.digest or entry.get("digest") in below


def _tag_of(entry: dict[str, Any]) -> str | None:
    annotations = entry.get("annotations")
    return annotations.get(_REF_NAME) if isinstance(annotations, dict) else None


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
