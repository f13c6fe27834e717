"""Does a cache tell the truth? Every blob its records promise is asked for where it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ci_plugins.cache.record import CacheRecord, RecordedLayer
from ci_plugins.cache.store import CacheStore
from ci_plugins.errors import CiPluginsError
from ci_plugins.oci import Descriptor, Digest

_THREADS = 16
#: tables of contents read at a time: each is some kilobytes, in memory
_TOCS_AT_ONCE = 200

#: (repository "host/name", blob) → whether it is there. Raises CiPluginsError where that cannot be told.
HasBlob = Callable[[str, Descriptor], bool]


@dataclass(frozen=True, slots=True)
class Here:
    """Whether this machine has, whole, the blob of a layer, and its table of contents."""

    blob: Callable[[RecordedLayer], bool]
    toc: Callable[[RecordedLayer], bool]


@dataclass(frozen=True, slots=True)
class Finding:
    """A record that lied, and how; `dropped` or only corrected."""

    record: CacheRecord
    text: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """`asked` blobs were asked for in repositories. `unknown` says what could not be told: that was left alone."""

    records: int
    asked: int
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]

    @property
    def dropped(self) -> int:
        return sum(finding.dropped for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Answers:
    """`there` has an answer for every blob that could be asked for."""

    there: Mapping[tuple[str, Digest], bool]
    unknown: tuple[str, ...]


def verify(store: CacheStore, here: Here, has_blob: HasBlob) -> Verified:
    """A record is dropped when nobody has its layer's blob, and corrected when some of its repositories have not, or
    its table of contents is gone. Raises CacheUnavailable."""
    records = [record for scope in store.scopes() for record in store.records([scope])]
    answers = _ask(records, has_blob)
    tocs = _tocs(store, records, here)
    findings = []
    for record in records:
        if finding := _judge(record, here, answers.there, tocs):
            findings.append(finding)
    _apply(store, findings)
    return Verified(len(records), len(answers.there), tuple(findings), answers.unknown)


def _ask(records: Iterable[CacheRecord], has_blob: HasBlob) -> _Answers:
    """Every blob of every repository once. A registry that does not answer is not asked again."""
    wanted = {
        (place, record.layer.descriptor.digest): record.layer.descriptor
        for record in records
        if record.layer
        for place in record.repositories
    }

    failed: dict[str, str] = {}

    def ask(item: tuple[tuple[str, Digest], Descriptor]) -> bool | None:
        (place, _), blob = item
        host = place.partition("/")[0]
        if host in failed:
            return None
        try:
            return has_blob(place, blob)
        except CiPluginsError as error:
            failed.setdefault(host, f"{place}: {error}")
            return None

    with ThreadPoolExecutor(_THREADS, "verify") as pool:
        answers = dict(zip(wanted, pool.map(ask, wanted.items()), strict=True))
    there = {place: answer for place, answer in answers.items() if answer is not None}
    return _Answers(there, tuple(failed[host] for host in sorted(failed)))


def _tocs(store: CacheStore, records: Sequence[CacheRecord], here: Here) -> set[Digest]:
    """Those tables of contents that are there, and are what they say."""
    layers = {
        layer.toc.digest: (layer, layer.toc, record.repositories)
        for record in records
        for layer in (*record.base, *([record.layer] if record.layer else []))
        if layer.toc
    }
    found = {digest for digest, (layer, _, _) in layers.items() if here.toc(layer)}
    items = [(toc, places) for digest, (_, toc, places) in layers.items() if digest not in found]
    for start in range(0, len(items), _TOCS_AT_ONCE):
        found |= store.tocs(items[start : start + _TOCS_AT_ONCE]).keys()
    return found


def _judge(
    record: CacheRecord,
    here: Here,
    there: Mapping[tuple[str, Digest], bool],
    tocs: set[Digest],
) -> Finding | None:
    corrected, texts = record, []
    if record.layer:
        blob = record.layer.descriptor.digest
        gone = [place for place in record.repositories if there.get((place, blob)) is False]
        kept = tuple(place for place in record.repositories if place not in gone)
        if not kept and not here.blob(record.layer):
            places = " and ".join(gone) or "this machine"
            return Finding(record, f"its layer {blob[:19]}… is gone from {places}", dropped=True)
        if gone:
            texts.append(f"its layer {blob[:19]}… is gone from {' and '.join(gone)}, but is elsewhere")
            corrected = replace(corrected, repositories=kept)
    layers = [*record.base, *([record.layer] if record.layer else [])]
    if any(layer.toc and layer.toc.digest not in tocs for layer in layers):
        texts.append("a table of contents of it is gone")
        corrected = replace(
            corrected,
            layer=_with_known_toc(record.layer, tocs) if record.layer else None,
            base=tuple(_with_known_toc(layer, tocs) for layer in record.base),
        )
    return Finding(corrected, "; ".join(texts), dropped=False) if texts else None


def _with_known_toc(layer: RecordedLayer, tocs: set[Digest]) -> RecordedLayer:
    return layer if layer.toc is None or layer.toc.digest in tocs else replace(layer, toc=None)


def _apply(store: CacheStore, findings: Sequence[Finding]) -> None:
    for scope in {finding.record.scope for finding in findings}:
        here = [finding for finding in findings if finding.record.scope == scope]
        store.remove([finding.record.key for finding in here if finding.dropped], scope)
        store.put([finding.record for finding in here if not finding.dropped])
