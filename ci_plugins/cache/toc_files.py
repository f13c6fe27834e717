"""Tables of contents as files of one directory, by the digest of their bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ci_plugins.cache.forest import TOC_GRACE, is_what_it_says
from ci_plugins.oci import Descriptor, Digest, hex_of


class TocFiles:
    """Many processes may use one directory: a file appears whole, and is never changed. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, descriptor: Descriptor) -> bytes | None:
        """None for what is not there, and for what is damaged."""
        try:
            data = (self._directory / hex_of(descriptor.digest)).read_bytes()
        except FileNotFoundError:
            return None
        return data if is_what_it_says(data, descriptor) else None

    def put(self, tocs: Mapping[Digest, bytes]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for digest, data in tocs.items():
            path = self._directory / hex_of(digest)
            temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
            temporary.write_bytes(data)
            os.replace(temporary, path)

    def keep(self, digests: Collection[Digest]) -> None:
        """Remove all others, but for those of builds that may still be running."""
        kept = {hex_of(digest) for digest in digests}
        newest = time.time() - TOC_GRACE
        for name in self._names():
            path = self._directory / name
            with suppress(FileNotFoundError):  # another process removes them too
                if name not in kept and path.stat().st_mtime < newest:
                    path.unlink()

    def _names(self) -> Sequence[str]:
        return os.listdir(self._directory) if self._directory.is_dir() else ()
