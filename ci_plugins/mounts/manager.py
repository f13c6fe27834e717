"""The cache mounts of a build: leased to steps while it runs, saved to the shared store after it."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from ci_plugins.errors import state_errors
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.mounts.bind import Bind
from ci_plugins.mounts.listing import Limits
from ci_plugins.mounts.save import Saved
from ci_plugins.mounts.seed import place
from ci_plugins.mounts.slots import Slot, clear, lease, remove_unused, try_slot
from ci_plugins.mounts.spec import MountRequest, MountSpec, Sharing
from ci_plugins.mounts.store import ChunkStore
from ci_plugins.mounts.travel import Travel
from ci_plugins.oci import hex_of

Mode = Literal["off", "local", "shared"]

DEFAULT_LIMITS = Limits(size=2 << 30, age=30 * 86400.0)

#: the stronger one counts where one RUN mounts the same directory twice
_STRENGTH: tuple[Sharing, ...] = ("shared", "private", "locked")


class MountManager:
    """Directories below `root`. Thread safe, safe between processes.

    `mode` "off": every step finds its mounts new, and what it leaves there is thrown away. "local": they stay on this
    machine. "shared": a mount that this machine does not have is taken from `remote` when the first step wants it, out
    of the first of `scopes` that has one; one that it has gets what others have added to that. `save` writes to the
    first scope only.
    """

    def __init__(
        self,
        root: Path,
        mode: Mode,
        recorder: Recorder,
        *,
        limits: Limits = DEFAULT_LIMITS,
        remote: ChunkStore | None = None,
        scopes: Sequence[str] = ("default",),
    ) -> None:
        self._root, self._mode, self._recorder, self._limits = root.absolute(), mode, recorder, limits
        self._travel = Travel(remote, scopes, limits, recorder) if remote is not None and mode == "shared" else None
        self._lock = threading.Lock()
        #: mounts that steps of this build could write to, by the names of their directories
        self._used: dict[str, MountSpec] = {}
        #: mounts that this build has compared with the shared store
        self._compared: set[str] = set()
        # Best effort: what cannot be removed now can be later.
        remove_unused(self._root, time.time() - limits.age)

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
                self._prepare(slot, same[0], parent, stop)
                if slot.number == 0 and not all(request.spec.readonly for request in same):
                    with self._lock:
                        self._used[name] = same[0].spec
                for request in same:
                    binds[request.spec.target] = Bind(slot.data, request.spec.target, request.spec.readonly)
            # what is mounted inside another mount comes after it
            yield tuple(sorted(binds.values(), key=lambda bind: (bind.target.count("/"), bind.target)))

    def save(self, parent: ActiveSpan, stop: threading.Event) -> list[Saved]:
        """Send what this build's steps changed to the shared store; to be called when the image is where it belongs.

        What fails is a warning: the build has succeeded. Raises Interrupted.
        """
        saved: list[Saved] = []
        if self._travel is None:
            return saved
        for name, spec in sorted(self._used.items(), key=lambda item: item[1].id):
            slot = try_slot(self._root / name, fcntl.LOCK_SH)
            if slot is None:  # a step of another build has it for itself: that build saves it
                saved.append(Saved(spec.id, "in use"))
                continue
            try:
                saved.append(self._travel.save(slot, spec, parent, stop))
            finally:
                slot.release()
        return saved

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

    def _prepare(self, slot: Slot, request: MountRequest, parent: ActiveSpan, stop: threading.Event) -> None:
        name = slot.path.parent.name
        with self._lock:
            first = name not in self._compared
            if slot.number == 0:
                self._compared.add(name)
        made = slot.prepare(partial(self._fill, slot, request, parent, stop), stop)
        if first and not made and slot.number == 0 and self._travel is not None:
            slot.add(partial(self._travel.catch_up, slot, request.spec, parent=parent, stop=stop))

    def _fill(self, slot: Slot, request: MountRequest, parent: ActiveSpan, stop: threading.Event, new: Path) -> None:
        spec = request.spec
        if slot.number == 0 and self._travel is not None and self._travel.restore(slot, spec, new, parent, stop):
            return
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
