"""The cache mounts of a build: leased to steps while it runs, saved to the shared store after it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from ci_plugins.errors import state_errors
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.mounts.bind import Bind
from ci_plugins.mounts.seed import place
from ci_plugins.mounts.slots import Slot, clear, lease
from ci_plugins.mounts.spec import MountRequest, MountSpec, Sharing
from ci_plugins.oci import hex_of

Mode = Literal["off", "local", "shared"]

#: the stronger one counts where one RUN mounts the same directory twice
_STRENGTH: tuple[Sharing, ...] = ("shared", "private", "locked")


class MountManager:
    """Directories below `root`. Thread safe, safe between processes.

    `mode` "off": every step finds its mounts new, and what it leaves there is thrown away.
    """

    def __init__(self, root: Path, mode: Mode, recorder: Recorder) -> None:
        self._root, self._mode, self._recorder = root.absolute(), mode, recorder

    @contextmanager
    def lease(
        self, requests: Sequence[MountRequest], parent: ActiveSpan, stop: threading.Event
    ) -> Iterator[tuple[Bind, ...]]:
        """The directories of a step's mounts, as long as the block lasts.

        Waits for a `locked` one that is in use. Raises Interrupted when `stop` is set meanwhile, StateError, and what
        filling a new one from a stage or an image raises.
        """
        by_directory: dict[str, list[MountRequest]] = {}
        for request in requests:
            by_directory.setdefault(self._directory(request.spec), []).append(request)
        with ExitStack() as stack:
            binds: dict[str, Bind] = {}
            # In the order of their names, in every build: so nobody waits for somebody who waits for him.
            for name in sorted(by_directory):
                same = by_directory[name]
                slot = self._leased(self._root / name, same, parent, stop)
                stack.callback(self._release, slot)
                slot.prepare(lambda new, first=same[0]: self._fill(new, first), stop)  # type: ignore[misc]
                for request in same:
                    binds[request.spec.target] = Bind(slot.data, request.spec.target, request.spec.readonly)
            # what is mounted inside another mount comes after it
            yield tuple(sorted(binds.values(), key=lambda bind: (bind.target.count("/"), bind.target)))

    def _directory(self, spec: MountSpec) -> str:
        return hex_of(spec.key) if self._mode != "off" else f"off-{hex_of(spec.key)}"

    def _leased(
        self, directory: Path, requests: Sequence[MountRequest], parent: ActiveSpan, stop: threading.Event
    ) -> Slot:
        sharing = max((request.spec.sharing for request in requests), key=_STRENGTH.index)
        spec = requests[0].spec
        with ExitStack() as stack:

            def waiting() -> None:
                stack.enter_context(self._recorder.span("mount", spec.id, parent, action="wait"))

            slot = lease(directory, "private" if self._mode == "off" else sharing, stop, waiting)
        if self._mode == "off":
            with state_errors(slot.data):
                clear(slot.data)
        elif not (directory / "about.json").exists():
            with state_errors(directory):
                _write(directory / "about.json", json.dumps({"id": spec.id, "target": spec.target}))
        return slot

    def _fill(self, new: Path, request: MountRequest) -> None:
        spec = request.spec
        if request.seed is not None:
            place(request.seed(), new)
        with state_errors(new):
            if spec.uid is not None or spec.gid is not None:
                os.chown(new, -1 if spec.uid is None else spec.uid, -1 if spec.gid is None else spec.gid)
            if spec.mode is not None:
                new.chmod(spec.mode)

    def _release(self, slot: Slot) -> None:
        try:
            if self._mode == "off":
                with state_errors(slot.data):
                    clear(slot.data)
        finally:
            slot.release()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
