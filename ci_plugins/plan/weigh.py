"""Pull or rebuild: a known step whose files a later RUN needs can be fetched, or run again. What is quicker?

Only steps that some RUN to be executed stands on are weighed: a step that nobody needs the files of costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ci_plugins.cache.record import FOREIGN, CacheRecord
from ci_plugins.plan.steps import RunWork, Stage

Preference = Literal["auto", "pull", "rebuild"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What fetching costs here, in bytes per second: over the network (compressed) and onto the disk (uncompressed).
    Before anything was measured: a fast office line and a slow disk."""

    download: float = 50e6
    extract: float = 250e6

    def seconds(self, compressed: int, uncompressed: int) -> float:
        """Download and extraction overlap: the slower one counts."""
        return max(compressed / self.download, uncompressed / self.extract)


@dataclass(frozen=True, slots=True)
class Choice:
    """For one stage: of `known` leading steps `reused` are kept. Seconds estimated for fetching their layers, for
    running again what is not kept, and for fetching the layers of all."""

    stage: int
    known: int
    reused: int
    pull_seconds: float
    rebuild_seconds: float
    pull_all_seconds: float


@dataclass(slots=True)
class Weigher:
    """`make_plan`'s `reuse`. `at_hand` tells whether a record's files need not be fetched; `choices` say afterwards
    what was decided where there was a choice."""

    preference: Preference
    rates: Rates
    at_hand: Callable[[CacheRecord], bool]
    choices: list[Choice] = field(default_factory=list)

    def __call__(self, stage: Stage, records: Sequence[CacheRecord]) -> int:
        known = len(records)
        if not any(isinstance(step.work, RunWork) for step in stage.steps[known:]):
            return known  # nobody needs the files
        if self.preference == "pull" or all(self._fetch_seconds(record) == 0 for record in records):
            return known
        costs = [self._cost(records, count) for count in range(known + 1)]
        if self.preference == "rebuild":
            reused = max(count for count in range(known + 1) if costs[count][0] == 0)
        else:
            # what somebody else built has no time to weigh: it is kept
            least = max((count for count, record in enumerate(records, 1) if FOREIGN in record.inputs), default=0)
            reused = min(range(least, known + 1), key=lambda count: (sum(costs[count]), -count))
        self.choices.append(Choice(stage.index, known, reused, *costs[reused], costs[known][0]))
        return reused

    def _cost(self, records: Sequence[CacheRecord], count: int) -> tuple[float, float]:
        """(fetching the first `count`, running the others again) in seconds."""
        fetched = [record for record in records[:count] if not self.at_hand(record) and record.layer]
        pull = self.rates.seconds(
            sum(record.layer.descriptor.size for record in fetched if record.layer),
            sum(record.layer.size for record in fetched if record.layer),
        )
        return pull, sum(record.seconds for record in records[count:])

    def _fetch_seconds(self, record: CacheRecord) -> float:
        if record.layer is None or self.at_hand(record):
            return 0
        return self.rates.seconds(record.layer.descriptor.size, record.layer.size)
