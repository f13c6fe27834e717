"""What a build asks of images built elsewhere: everything wired to its cache, its registries and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ci_plugins.cache.chained import ChainedStore
from ci_plugins.cache.record import CacheRecord
from ci_plugins.events import ActiveSpan, Recorder
from ci_plugins.foreign.asked import ForeignForest
from ci_plugins.foreign.match import ForeignImages, foreign_records
from ci_plugins.foreign.proof import LayerProof
from ci_plugins.layer.copy import FileTree
from ci_plugins.oci import Digest, Platform, Reference
from ci_plugins.plan.steps import Stage
from ci_plugins.storage.registry import RegistryClient, RegistryListing
from ci_plugins.transfer.pull import LayerFetcher


@dataclass(frozen=True, slots=True)
class BuiltElsewhere:
    """`scope` is the build's own: what is found is kept there."""

    cache: ChainedStore
    scope: str
    platform: Platform
    fetcher: LayerFetcher
    context: Callable[[], FileTree]
    client_for: Callable[[str], RegistryClient]
    recorder: Recorder
    parent: ActiveSpan

    def records(
        self,
        stages: Sequence[Stage],
        records: Mapping[Digest, CacheRecord],
        usable: Callable[[CacheRecord], bool],
        roots: Mapping[Digest, CacheRecord],
    ) -> Mapping[Digest, CacheRecord]:
        """Those given, and those found. Never raises for an index or a registry that fails."""
        with self.recorder.span("cache", "images built elsewhere", self.parent) as span:
            forest = ForeignForest(self.cache.lookup_in_each)
            images = ForeignImages(
                platform=self.platform,
                scope=self.scope,
                forest=forest,
                present=self._present,
                holds=LayerProof(self.fetcher, self.context).holds,
                warn=self.recorder.warn,
            )
            found = foreign_records(stages, records, usable, roots, images)
            self.cache.put_local(tuple(found.values()))
            span.set(found=len(found), questions=forest.questions)
        return {**records, **found}

    def _present(self, record: CacheRecord) -> bool:
        place = Reference.parse(record.repositories[0])
        listing = RegistryListing(self.client_for(place.registry))
        return record.layer is not None and listing.has_blob(place.repository, record.layer.descriptor)
