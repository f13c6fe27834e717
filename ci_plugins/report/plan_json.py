"""A plan for programs. docs/plan-schema.json is its schema, docs/cache.md explains it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ci_plugins import __version__
from ci_plugins.plan.explain import ExplainedStep, Explanation
from ci_plugins.plan.forecast import Fetch, Forecast
from ci_plugins.plan.weigh import Choice
from ci_plugins.report.scopes import Scopes

#: Raised when a field changes its meaning or goes; new fields do not raise it.
VERSION = 1


def render(
    explanation: Explanation,
    forecast: Forecast,
    *,
    names: Sequence[str],
    platform: str,
    prefer: str,
    left_out: Sequence[str],
    warnings: Sequence[str],
    scopes: Scopes | None = None,
) -> str:
    reused, total = explanation.counted()
    miss = explanation.first_miss
    value = {
        "version": VERSION,
        "generator": f"ci-plugins {__version__}",
        "images": list(names),
        "platform": platform,
        "cache_scope": scopes.to_json() if scopes else None,
        "headline": explanation.headline(),
        "steps_reused": reused,
        "steps_total": total,
        "first_miss": explanation.steps.index(miss) if miss else None,
        "steps": [_step(step) for step in explanation.steps],
        "stages_left_out": list(left_out),
        "fetches": [_fetch(fetch) for fetch in forecast.fetches],
        "fetch_seconds": _seconds(forecast.fetch_seconds),
        "run_seconds": _seconds(forecast.run_seconds),
        "never_run": [explanation.steps.index(step) for step in forecast.unknown],
        "prefer": prefer,
        "choices": [_choice(choice) for choice in forecast.choices],
        "warnings": list(warnings),
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _step(explained: ExplainedStep) -> dict[str, Any]:
    step, reason = explained.step, explained.reason
    return {
        "stage": explained.stage.name,
        "number": step.number,
        "total": explained.stage.total,
        "instruction": step.instruction.name,
        "text": step.title,
        "line": step.instruction.location.line,
        "key": step.key,
        "action": explained.action,
        "reason": str(reason) if reason else "",
        "cause": explained.cause,
    }


def _fetch(fetch: Fetch) -> dict[str, Any]:
    return {
        "digest": fetch.blob.digest,
        "bytes": fetch.blob.size,
        "uncompressed_bytes": fetch.uncompressed,
        "source": fetch.source,
        "purpose": fetch.purpose,
        "certain": fetch.certain,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "stage": choice.stage,
        "known": choice.known,
        "reused": choice.reused,
        "pull_seconds": _seconds(choice.pull_seconds),
        "rebuild_seconds": _seconds(choice.rebuild_seconds),
        "pull_all_seconds": _seconds(choice.pull_all_seconds),
    }


def _seconds(value: float) -> float:
    return round(value, 3)
