"""Layers of images built elsewhere in the place of steps that would have to be run.

From where the build's own records end, the chain is followed through the forest. Where each stage goes on is known
before anything is asked, so one question for the documents of these places tells all there is; only where a document
was too large for all that stands on a layer, there is another. A RUN is taken as its history says. A COPY or WORKDIR is
taken only after its layer was compared with what ours would write, and only where a RUN after it is found: to write a
copy anew is cheaper than to download it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.cache.record import FOREIGN, CacheRecord, RecordedLayer
from ci_plugins.errors import CiPluginsError, Interrupted
from ci_plugins.foreign.asked import ForeignForest
from ci_plugins.foreign.chains import step_foreign_key
from ci_plugins.foreign.known import document_scope
from ci_plugins.oci import Digest, Platform, Reference
from ci_plugins.plan.steps import BaseImage, CopyWork, RunWork, Stage, Step, WorkdirWork
from ci_plugins.transfer.pull import StoredLayer, stored_layers

#: (step, its layer or None, what is below) → whether the layer holds what the step would write
Holds = Callable[[Step, StoredLayer | None, StoredLayer | None], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignImages:
    """The index, and what is needed to judge what it says.

    `present` says whether a record's blob still is where it was; `warn` hears what went wrong: then there is no reuse.
    """

    platform: Platform
    scope: str
    forest: ForeignForest
    present: Callable[[CacheRecord], bool]
    holds: Holds
    warn: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A step with the layer that may stand for it; `record` is None where only the config changes, or nothing."""

    step: Step
    record: CacheRecord | None
    layer: StoredLayer | None
    below: StoredLayer | None


def foreign_records(
    stages: Sequence[Stage],
    records: Mapping[Digest, CacheRecord],
    usable: Callable[[CacheRecord], bool],
    roots: Mapping[Digest, CacheRecord],
    images: ForeignImages,
) -> dict[Digest, CacheRecord]:
    """Records for steps that have none in `records`, by StepKey, each naming the image it came from. `roots` are
    the records of base images by manifest. `stages` in ascending order of their index."""
    return _Walk(records, usable, roots, images).all(stages)


class _Walk:
    def __init__(
        self,
        records: Mapping[Digest, CacheRecord],
        usable: Callable[[CacheRecord], bool],
        roots: Mapping[Digest, CacheRecord],
        images: ForeignImages,
    ) -> None:
        self._records, self._usable, self._roots, self._images = records, usable, roots, images
        self._found: dict[Digest, CacheRecord] = {}
        #: stage → its topmost layer, for stages all of whose steps are known
        self._tops: dict[int, StoredLayer | None] = {}
        self._proven: dict[tuple[Digest, Digest | None, Digest | None], bool] = {}

    def all(self, stages: Sequence[Stage]) -> dict[Digest, CacheRecord]:
        self._images.forest.ask(self._beginnings(stages))
        for stage in stages:
            if isinstance(stage.base, int) and stage.base not in self._tops:
                continue
            self._stage(stage)
        return self._found

    def _beginnings(self, stages: Sequence[Stage]) -> dict[Digest, str]:
        """Where the walk goes on in all stages of which that is known, for one question."""
        tops: dict[int, StoredLayer | None] = {}
        places: dict[Digest, str] = {}
        for stage in stages:
            if isinstance(stage.base, int) and stage.base not in tops:
                continue
            known, top = self._known(stage, tops)
            if known == len(stage.steps):
                tops[stage.index] = top
            else:
                places |= self._places(stage.steps[known:], top)
        return places

    def _known(self, stage: Stage, tops: Mapping[int, StoredLayer | None]) -> tuple[int, StoredLayer | None]:
        """How many steps have usable records of the build's own, and the topmost layer there."""
        top = tops[stage.base] if isinstance(stage.base, int) else self._base(stage.base)
        known = 0
        for step in stage.steps:
            record = self._records.get(step.key)
            if record is None or not self._usable(record):
                break
            top = _push(record, top)
            known += 1
        return known, top

    def _places(self, steps: Sequence[Step], top: StoredLayer | None) -> dict[Digest, str]:
        """Where the layers of the next steps on `top` would be, with the scopes of their documents. None if no RUN can
        come of it."""
        chain = top.chain if top else None
        bottom = top.with_parents()[0].diff_id if top else None
        places: dict[Digest, str] = {}
        on_top = True
        for step in steps:
            if step.work is None:
                continue
            place = step_foreign_key(self._images.platform, chain, step)
            if place is None:
                break
            if on_top:
                places[place] = document_scope(bottom, place)
            if isinstance(step.work, RunWork):
                return places
            on_top = on_top and isinstance(step.work, WorkdirWork)  # it may write nothing
        return {}

    def _stage(self, stage: Stage) -> None:
        known, top = self._known(stage, self._tops)
        self._explore(stage.steps, known, top, ())
        for step in stage.steps[known:]:
            found = self._found.get(step.key)
            if found is None:
                return
            top = _push(found, top)
        self._tops[stage.index] = top

    def _base(self, base: BaseImage | None) -> StoredLayer | None:
        if base is None:
            return None
        root = self._roots.get(base.digest)
        tocs = {layer.diff_id: layer.toc for layer in root.base} if root else {}
        layers = [RecordedLayer(blob, diff_id, 0, tocs.get(diff_id)) for blob, diff_id in base.layers]
        chain = stored_layers(layers, base.reference, root.repositories if root else ())
        return chain[-1] if chain else None

    def _explore(
        self, steps: Sequence[Step], position: int, top: StoredLayer | None, pending: tuple[_Candidate, ...]
    ) -> bool:
        """Go on from a place in the chain; `pending` waits for a RUN that makes it worth its proof. Whether one was
        found."""
        while position < len(steps) and steps[position].work is None:
            pending = (*pending, _Candidate(steps[position], None, None, top))
            position += 1
        if position == len(steps):
            return False
        step = steps[position]
        for record in self._candidates(steps[position:], top):
            layer = _push(record, top)
            candidate = _Candidate(step, record, layer, top)
            if isinstance(step.work, RunWork):
                if self._accept((*pending, candidate)):
                    self._explore(steps, position + 1, layer, ())
                    return True
            elif self._explore(steps, position + 1, layer, (*pending, candidate)):
                return True
        if isinstance(step.work, WorkdirWork):  # it may have been there
            return self._explore(steps, position + 1, top, (*pending, _Candidate(step, None, None, top)))
        return False

    def _candidates(self, steps: Sequence[Step], top: StoredLayer | None) -> Sequence[CacheRecord]:
        """Of the first of these steps, the newest first."""
        place = step_foreign_key(self._images.platform, top.chain if top else None, steps[0])
        if place is None:
            return ()
        forest = self._images.forest
        if top is None or not forest.tells_all(top.chain):
            forest.ask(self._places(steps, top))
        return [record for layer in forest.layers(place) if self._usable(record := layer.record())]

    def _accept(self, candidates: Sequence[_Candidate]) -> bool:
        """Take them all, or none."""
        try:
            if not all(self._images.present(one.record) for one in candidates if one.record):
                return False
            if not all(self._is_proven(one) for one in candidates):
                return False
        except Interrupted:
            raise
        except CiPluginsError as error:
            self._images.warn(f"layers of images built elsewhere are not used: {error}")
            return False
        source = candidates[-1].record
        for one in candidates:
            self._found[one.step.key] = self._record(one, source)
        return True

    def _is_proven(self, candidate: _Candidate) -> bool:
        if not isinstance(candidate.step.work, (CopyWork, WorkdirWork)):
            return True
        diff_id = candidate.layer.diff_id if candidate.record and candidate.layer else None
        place = candidate.step.key, diff_id, candidate.below.chain if candidate.below else None
        if place not in self._proven:
            layer = candidate.layer if candidate.record else None
            self._proven[place] = self._images.holds(candidate.step, layer, candidate.below)
        return self._proven[place]

    def _record(self, candidate: _Candidate, last: CacheRecord | None) -> CacheRecord:
        """In the build's own scope: from now on it is a step like any other."""
        record = candidate.record
        source = record or last
        return CacheRecord(
            key=candidate.step.key,
            parent=candidate.step.parent,
            instruction=candidate.step.title,
            layer=record.layer if record else None,
            created=source.created if source else "",
            seconds=0.0,
            scope=self._images.scope,
            repositories=record.repositories if record else (),
            inputs={**candidate.step.describe(), FOREIGN: source.inputs.get("image", "") if source else ""},
        )


def _push(record: CacheRecord, top: StoredLayer | None) -> StoredLayer | None:
    if record.layer is None:
        return top
    origin = Reference.parse(record.repositories[0]) if record.repositories else None
    return stored_layers([record.layer], origin, record.repositories, top)[0]
