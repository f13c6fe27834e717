"""What was built before: where the chain of a stage parted from an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from ci_plugins.cache.record import CacheRecord, ImageRecord
from ci_plugins.cache.store import CacheStore
from ci_plugins.oci import Digest
from ci_plugins.plan.planner import Plan, PlannedStage
from ci_plugins.plan.steps import CopyWork, Stage, Step

#: A chain of more steps is not followed.
_LONGEST = 500


class Past:
    """Earlier records of the images `names`, read from `store` when asked for. Raises CacheUnavailable."""

    def __init__(self, store: CacheStore, scopes: Sequence[str], names: Sequence[str]) -> None:
        self._store, self._scopes, self._names = store, tuple(scopes), tuple(names)
        self._children: dict[Digest, tuple[CacheRecord, ...]] = {}

    def children(self, key: Digest) -> tuple[CacheRecord, ...]:
        if key not in self._children:
            self._children[key] = self._store.children(key, self._scopes)
        return self._children[key]

    @cached_property
    def image(self) -> tuple[CacheRecord, ...]:
        """The steps of the last image of the same name, else of the same repository, lowest first."""
        images = self._store.images(self._scopes)
        found = next((image for name in self._names for image in images if image.name == name), None)
        found = found or next((image for image in images if _repository(image.name) in self._repositories), None)
        return self._path(found) if found else ()

    def back(self, key: Digest) -> tuple[CacheRecord, ...]:
        """The steps up to a key, lowest first, as far as they are known."""
        path: list[CacheRecord] = []
        wanted: Digest | None = key
        while wanted is not None and len(path) < _LONGEST:
            record = self._store.lookup([wanted], self._scopes).get(wanted)
            if record is None or record.parent is None:
                break
            path.insert(0, record)
            wanted = record.parent
        return tuple(path)

    @property
    def _repositories(self) -> set[str]:
        return {_repository(name) for name in self._names}

    def _path(self, image: ImageRecord) -> tuple[CacheRecord, ...]:
        records = self._store.lookup(image.keys, self._scopes)
        steps = [records[key] for key in image.keys if key in records]
        return tuple(record for record in steps if record.parent is not None)


def earlier_steps(plan: Plan, past: Past, stage: Stage) -> tuple[CacheRecord, ...]:
    """The steps that the stage's took the place of, lowest first: of the last image, or of the stage that an earlier
    COPY --from of this Dockerfile read. Empty where nobody remembers."""
    if stage in plan.ancestry():
        return past.image
    for planned in plan.stages:
        for position, step in enumerate(planned.stage.steps):
            if isinstance(step.work, CopyWork) and step.work.origin == stage.index:
                before = _counterpart(plan, past, planned, position, step)
                kind, _, key = before.inputs.get("from", "").partition(" ") if before else ("", "", "")
                if kind == "stage":
                    return past.back(Digest(key))
    return ()


def earlier_records(plan: Plan, past: Past) -> Mapping[Digest, CacheRecord]:
    """Key of a step that is executed → the earlier record of the same instruction at the same place."""
    found: dict[Digest, CacheRecord] = {}
    for planned in plan.stages:
        for position, step in enumerate(planned.executed, len(planned.records)):
            if record := _counterpart(plan, past, planned, position, step):
                found[step.key] = record
    return found


def _counterpart(plan: Plan, past: Past, planned: PlannedStage, position: int, step: Step) -> CacheRecord | None:
    """The earlier record of the same instruction at the same place."""
    start = plan.hits[planned.stage.index]
    found: CacheRecord | None = None
    for each in planned.stage.steps[start : position + 1]:
        children = past.children(found.key if found else each.parent)
        found = next((child for child in children if child.instruction == each.title), None)
        if found is None:
            break
    if found is not None:
        return found
    return next(
        (record for record in earlier_steps(plan, past, planned.stage) if record.instruction == step.title), None
    )


def _repository(name: str) -> str:
    """Without the tag; a path is left as it is."""
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]
