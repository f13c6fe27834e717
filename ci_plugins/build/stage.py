"""One stage, step after step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from ci_plugins.build.chain import Chain, ChainLayer, FreshLayer, KnownLayer, known_chain
from ci_plugins.build.halt import Halt
from ci_plugins.build.layers import LayerWriter
from ci_plugins.cache.layers import LayerCache, NewSnapshot
from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.context import ImageTree
from ci_plugins.engine.protocol import Engine, RunRequest
from ci_plugins.errors import placed
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.layer.ahead import Ahead
from ci_plugins.layer.copy import FileTree, copy_items, workdir_items
from ci_plugins.layer.entry import Item
from ci_plugins.layer.tree import LayerTree
from ci_plugins.layer.users import User, resolve_owner, resolve_user
from ci_plugins.mounts.manager import MountManager
from ci_plugins.mounts.seed import seed_items
from ci_plugins.mounts.spec import MountRequest
from ci_plugins.oci import Digest, History, Reference
from ci_plugins.plan.planner import PlannedStage
from ci_plugins.plan.steps import BaseImage, CacheMount, CopyWork, RunWork, Step, WorkdirWork
from ci_plugins.sandbox.network_profile import NetworkProfile
from ci_plugins.transfer.pull import LayerFetcher, stored_layers
from ci_plugins.transfer.push import Push


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every stage of a build shares."""

    engine: Callable[[], Engine]
    writer: LayerWriter
    layers: LayerCache
    fetcher: LayerFetcher
    mounts: MountManager
    recorder: Recorder
    parent: ActiveSpan
    context: Callable[[], FileTree]
    profile: NetworkProfile
    halt: Halt
    #: manifest of a base image → its record, which knows where its tables of contents are
    roots: Mapping[Digest, CacheRecord]
    #: stores a record; never raises
    record: Callable[[CacheRecord], None]
    created: Callable[[], str]


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage all of whose steps are done; its layers may still be streaming. `made` are (history entry, layer)."""

    chain: Chain
    made: tuple[tuple[History, ChainLayer | None], ...]


def image_chain(image: BaseImage, workshop: Workshop) -> Chain:
    root = workshop.roots.get(image.digest)
    tocs = {layer.diff_id: layer.toc for layer in root.base} if root else {}
    layers = [RecordedLayer(blob, diff_id, 0, tocs.get(diff_id)) for blob, diff_id in image.layers]
    stored = stored_layers(layers, image.reference, root.repositories if root else ())
    return known_chain(Chain(), stored, workshop.fetcher)


class StageBuild:
    """Builds one stage. `results` hold the stages this one stands on or copies from."""

    def __init__(
        self, planned: PlannedStage, workshop: Workshop, results: Mapping[int, Future[StageResult]], push: Push | None
    ) -> None:
        self._planned, self._workshop, self._results, self._push = planned, workshop, results, push
        self._chain = Chain()
        self._tree: LayerTree | None = None
        self._made: list[tuple[History, ChainLayer | None]] = []

    def build(self) -> StageResult:
        self._begin()
        for position, (step, record) in enumerate(zip(self._planned.reused, self._planned.records, strict=True)):
            self._reuse(step, record, position)
        for position, step in enumerate(self._planned.executed, len(self._planned.records)):
            self._workshop.halt.check()
            self._execute(step, position)
        return StageResult(self._chain, tuple(self._made))

    # -- what is there already --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        base = self._planned.stage.base
        if isinstance(base, int):
            below = self._results[base].result()
            self._chain, self._made = below.chain, list(below.made)
        elif base is not None:
            self._chain = image_chain(base, self._workshop)
            for layer in self._chain.layers:
                self._send_known(layer, self._workshop.parent)
        self._fetch(self._chain.layers, as_files=self._planned.run_on_base)

    def _reuse(self, step: Step, record: CacheRecord, position: int) -> None:
        with self._step_span(step, state="cached") as span:
            layer: KnownLayer | None = None
            if record.layer is not None:
                below = [known.layer for known in self._chain.layers if isinstance(known, KnownLayer)]
                parent = below[-1] if below else None
                stored = stored_layers([record.layer], _origin(record), record.repositories, parent)
                layer = KnownLayer(stored[0], self._workshop.fetcher)
                self._chain = self._chain.push(layer)
                self._send_known(layer, span)
                self._fetch([layer], as_files=position < self._planned.run_until)
            self._made.append((_history(step, record.created, layer), layer))

    def _fetch(self, layers: Sequence[ChainLayer], *, as_files: bool) -> None:
        """Begin to fetch what executed steps will need of layers that exist, and nothing else."""
        known = [layer.layer for layer in layers if isinstance(layer, KnownLayer)]
        if as_files:
            self._workshop.fetcher.start_snapshots(known)
        elif any(step.work for step in self._planned.executed):
            self._workshop.fetcher.start_tocs(known)

    def _send_known(self, layer: ChainLayer, parent: ActiveSpan) -> None:
        if self._push is not None and isinstance(layer, KnownLayer):
            send_known(self._push, layer, parent)

    # -- what has to be done ----------------------------------------------------------------------------------------

    def _execute(self, step: Step, position: int) -> None:
        created = self._workshop.created()
        if step.work is None:
            self._made.append((_history(step, created, None), None))
            self._workshop.record(_record(step, None, created, 0.0))
            return
        with self._step_span(step, state="ran") as span:
            began = time.perf_counter()
            layer = self._work(step, span, keep_files=position < self._planned.keep_until)
            seconds = time.perf_counter() - began
        self._made.append((_history(step, created, layer), layer))
        if layer is None:
            self._workshop.record(_record(step, None, created, seconds))
            return
        self._chain = self._chain.push(layer)
        self._tree = self._tree.push(layer.contents) if self._tree else None
        layer.written.add_done_callback(lambda done: self._when_written(done, step, created, seconds))

    def _when_written(self, done: Future[RecordedLayer], step: Step, created: str, seconds: float) -> None:
        if done.cancelled():
            return
        if error := done.exception():
            self._workshop.halt.because(error)
        else:
            self._workshop.record(_record(step, done.result(), created, seconds))

    def _work(self, step: Step, span: ActiveSpan, *, keep_files: bool) -> FreshLayer | None:
        with placed(step.instruction.location):
            match step.work:
                case RunWork():
                    return self._run(step, step.work, span)
                case CopyWork():
                    items = self._copied(step.work)
                case WorkdirWork():
                    items = self._made_directory(step, step.work)
                case None:
                    return None
        snapshot = self._workshop.layers.new_snapshot() if keep_files and items else None
        return self._write(items, snapshot, span, extract=True)

    def _run(self, step: Step, work: RunWork, span: ActiveSpan) -> FreshLayer | None:
        tree = self._current_tree()
        user = self._user(step, tree)
        snapshot = self._workshop.layers.new_snapshot()
        request = RunRequest(
            argv=work.argv,
            environment=work.environment,
            working_dir=step.before.working_dir,
            user=user,
            lowers=self._chain.lowers(),
            upper=snapshot.path,
            network=work.network,
            profile=self._workshop.profile,
            files=work.files,
        )
        requests, halted = [self._mount(mount) for mount in work.mounts], self._workshop.halt.event
        with self._workshop.mounts.lease(requests, span, halted) as binds:
            with self._workshop.recorder.span("run", step.title, span, command=" ".join(work.argv)) as run:
                with self._workshop.writer.ahead(snapshot.path) as ahead:
                    self._workshop.engine().run(replace(request, binds=binds), run, halted)
        return self._write(ahead.items(), snapshot, span, extract=False, ahead=ahead)

    def _mount(self, mount: CacheMount) -> MountRequest:
        origin = mount.origin
        if origin is None:
            return MountRequest(mount.spec)
        return MountRequest(mount.spec, lambda: seed_items(self._files_of(origin), mount.spec.source))

    def _copied(self, work: CopyWork) -> list[Item]:
        tree = self._current_tree()
        request = replace(work.request, now_ns=time.time_ns())
        if work.chown:
            owner = resolve_owner(work.chown, tree.read_kept("etc/passwd"), tree.read_kept("etc/group"))
            request = replace(request, owner=owner)
        return copy_items(request, self._files_of(work.origin), tree)

    def _made_directory(self, step: Step, work: WorkdirWork) -> list[Item]:
        tree = self._current_tree()
        user = self._user(step, tree)
        return workdir_items(work.path, tree, (user.uid, user.gid), time.time_ns())

    def _user(self, step: Step, tree: LayerTree) -> User:
        return resolve_user(step.before.user, tree.read_kept("etc/passwd"), tree.read_kept("etc/group"))

    def _files_of(self, origin: int | BaseImage | None) -> FileTree:
        if origin is None:
            return self._workshop.context()
        if isinstance(origin, BaseImage):
            chain = image_chain(origin, self._workshop)
            self._workshop.fetcher.start_snapshots(
                [known.layer for known in chain.layers if isinstance(known, KnownLayer)]
            )
        else:
            chain = self._results[origin].result().chain
        return ImageTree(chain.tree(), lambda number: chain.layers[number].files())

    def _write(
        self,
        items: Sequence[Item],
        snapshot: NewSnapshot | None,
        span: ActiveSpan,
        *,
        extract: bool,
        ahead: Ahead | None = None,
    ) -> FreshLayer | None:
        if not items:
            if ahead is not None:
                ahead.close()
            return None
        return self._workshop.writer.write(
            items, self._chain, self._current_tree(), snapshot, extract=extract, push=self._push, step=span, ahead=ahead
        )

    def _current_tree(self) -> LayerTree:
        if self._tree is None:
            self._tree = self._chain.tree()
        return self._tree

    def _step_span(self, step: Step, *, state: str) -> AbstractContextManager[ActiveSpan]:
        stage = self._planned.stage
        if not step.number:
            return nullcontext(self._workshop.parent)
        return self._workshop.recorder.span(
            "step",
            step.title,
            self._workshop.parent,
            stage=stage.name,
            number=step.number,
            total=stage.total,
            instruction=step.instruction.name,
            state=state,
            key=step.key,
            line=step.instruction.location.line,
        )


def send_known(push: Push, known: KnownLayer, parent: ActiveSpan) -> None:
    """Make sure a layer that was written before is at every target."""
    push.stored(known.layer.descriptor, known.layer.origin, lambda: known.fetcher.blob(known.layer), parent)


def _history(step: Step, created: str, layer: ChainLayer | None) -> History:
    return History(step.created_by, created, comment="ci-plugins", empty_layer=layer is None)


def _origin(record: CacheRecord) -> Reference | None:
    """A repository that has the record's blobs."""
    return Reference.parse(record.repositories[0]) if record.repositories else None


def _record(step: Step, layer: RecordedLayer | None, created: str, seconds: float) -> CacheRecord:
    return CacheRecord(step.key, step.parent, step.title, layer, created, seconds, inputs=step.describe())
