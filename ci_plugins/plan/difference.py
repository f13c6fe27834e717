"""Why a step has another key than an earlier one at the same place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ci_plugins.cache.record import CacheRecord
from ci_plugins.plan.file_table import FileChanges, compare, decode
from ci_plugins.plan.inputs import HIDDEN
from ci_plugins.plan.steps import Step

#: characters of a value or instruction in a sentence
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Reason:
    """`short` is a clause that can follow "because"; `detail` goes on."""

    short: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.short}; {self.detail}" if self.detail else self.short


def difference(before: CacheRecord, step: Step) -> Reason:
    """Between an earlier record and a step on the same parent, or at the same place of another chain."""
    if before.instruction != step.title:
        what = "command" if step.instruction.name == "RUN" else "instruction"
        return Reason(f"the {what} changed", f"it was {_cut(before.instruction)}")
    old, new = before.inputs, step.describe()
    return (
        base_difference(old, new)
        or _args(old, new)
        or _origin(old, new)
        or _files(old, new)
        or _other(old, new)
        or Reason("its inputs changed")
    )


def base_difference(old: Mapping[str, str], new: Mapping[str, str]) -> Reason | None:
    if old.get("base") == new.get("base") or not (old.get("base") and new.get("base")):
        return None
    return _moved("base image", old["base"], new["base"])


def _moved(what: str, old: str, new: str) -> Reason:
    old_name, _, old_digest = old.rpartition("@")
    new_name, _, new_digest = new.rpartition("@")
    if old_name != new_name:
        return Reason(f"{what} changed: {old_name or old} → {new_name or new}")
    return Reason(f"{what} moved: {_short(old_digest)} → {_short(new_digest)}", new_name)


def _args(old: Mapping[str, str], new: Mapping[str, str]) -> Reason | None:
    names = sorted({name for name in (*old, *new) if name.startswith("arg.") and old.get(name) != new.get(name)})
    if not names:
        return None
    first, others = names[0], [name.removeprefix("arg.") for name in names[1:]]
    more = f"also ARG {', '.join(others)}" if others else ""
    shown = f"ARG {first.removeprefix('arg.')}"
    if first not in old:
        return Reason(f"{shown} is {_value(new[first])} and was not set before", more)
    if first not in new:
        return Reason(f"{shown} is not set any more", more)
    if new[first].startswith(HIDDEN) and old[first].startswith(HIDDEN):
        return Reason(f"{shown} changed", more)
    return Reason(f"{shown} {_value(old[first])} → {_value(new[first])}", more)


def _origin(old: Mapping[str, str], new: Mapping[str, str]) -> Reason | None:
    before, after = old.get("from", ""), new.get("from", "")
    if before == after:
        return None
    if before.startswith("stage ") or after.startswith("stage "):
        return Reason("the stage it copies from changed")
    return _moved("the image it copies from", before, after)


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> Reason | None:
    if old.get("content") == new.get("content"):
        return None
    changes = _changes(old.get("files", ""), new.get("files", ""))
    if changes is None or not changes.count:
        counts = [inputs["count"] for inputs in (old, new) if "count" in inputs]
        told = len(counts) == 2 and counts[0] != counts[1]
        return Reason("its files changed", f"{counts[0]} files before, {counts[1]} now" if told else "")
    return Reason(_first_change(changes), _counts(changes))


def _changes(old: str, new: str) -> FileChanges | None:
    try:
        return compare(decode(old), decode(new)) if old and new else None
    except ValueError:  # damaged: as good as absent
        return None


def _first_change(changes: FileChanges) -> str:
    if changes.modified:
        return f"{changes.modified[0]} changed"
    return f"{changes.added[0]} is new" if changes.added else f"{changes.removed[0]} is gone"


def _counts(changes: FileChanges) -> str:
    kinds = (("added", changes.added), ("modified", changes.modified), ("removed", changes.removed))
    return ", ".join(f"{len(paths)} {kind}" for kind, paths in kinds if paths) + f" of {changes.total} files"


def _other(old: Mapping[str, str], new: Mapping[str, str]) -> Reason | None:
    if old.get("heredoc") != new.get("heredoc"):
        return Reason("its inline document changed")
    if old.get("network") != new.get("network"):
        return Reason(f"its network changed: {old.get('network', 'host')} → {new.get('network', 'host')}")
    if old.get("mounts") != new.get("mounts"):
        return Reason("its mounts changed")
    return None


def _value(text: str) -> str:
    return _cut(text) if text else '""'


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12] + "…"
