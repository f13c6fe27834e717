"""The whole plan: stages side by side, the image put together at the end."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from ci_plugins.build.chain import Chain, FreshLayer
from ci_plugins.build.halt import Halt
from ci_plugins.build.stage import StageBuild, StageResult, Workshop
from ci_plugins.oci import Descriptor, ImageConfig
from ci_plugins.plan.planner import Plan
from ci_plugins.transfer.push import Push


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The finished config and its chain of written layers."""

    config: ImageConfig
    chain: Chain

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        return tuple(layer.recorded().descriptor for layer in self.chain.layers)


def execute(plan: Plan, workshop: Workshop, push: Push | None, labels: Mapping[str, str]) -> BuiltImage:
    """Build every stage of the plan. Returns once all steps are done and all layers are written; uploads may still be
    under way. Raises the first error; layers of finished steps are written and recorded all the same."""
    published = {stage.index for stage in plan.ancestry()}
    results: dict[int, Future[StageResult]] = {}
    with ThreadPoolExecutor(max_workers=len(plan.stages), thread_name_prefix="stage") as pool:
        for planned in plan.stages:
            index = planned.stage.index
            stage = StageBuild(planned, workshop, results, push if index in published else None)
            results[index] = pool.submit(_build, stage, workshop.halt)
        try:
            wait(results.values())
        except BaseException as error:
            # Before the pool waits for its threads: somebody pressed Ctrl-C.
            workshop.halt.because(error)
            raise
    workshop.halt.check()
    for result in results.values():
        for _, layer in result.result().made:
            if isinstance(layer, FreshLayer):
                layer.recorded()
    return _image(plan, results[plan.target.stage.index].result(), labels)


def _build(stage: StageBuild, halt: Halt) -> StageResult:
    try:
        return stage.build()
    except BaseException as error:
        halt.because(error)
        raise


def _image(plan: Plan, result: StageResult, labels: Mapping[str, str]) -> BuiltImage:
    config = plan.target.stage.config
    if labels:
        config = config.with_config(Labels={**(config.config.get("Labels") or {}), **labels})
    for history, layer in result.made:
        config = config.with_history(history, layer.recorded().diff_id if layer else None)
    if result.made:
        config = replace(config, created=max(history.created for history, _ in result.made))
    return BuiltImage(config, result.chain)
