"""A plan for a terminal or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from ci_plugins.oci import hex_of
from ci_plugins.plan.explain import ExplainedStep, Explanation
from ci_plugins.plan.forecast import Fetch, Forecast
from ci_plugins.plan.weigh import Choice
from ci_plugins.report.scopes import Scopes
from ci_plugins.report.text import clean, seconds, shorten, size

_PURPOSES = {
    "files": "a RUN stands on it",
    "copied": "if a COPY --from reads it",
    "contents": "only to list what it holds",
}
_LONGEST_TITLE = 56


def render(
    explanation: Explanation,
    forecast: Forecast,
    *,
    prefer: str = "auto",
    left_out: Sequence[str] = (),
    scopes: Scopes | None = None,
    width: int = 100,
) -> str:
    """Lines that end with a newline; reasons are wrapped to `width`."""
    lines = [*textwrap.wrap(clean(explanation.headline()), width, break_on_hyphens=False), ""]
    lines += _steps(explanation.steps, width)
    if left_out:
        lines.append(f"not needed: {', '.join(f'stage {clean(name)}' for name in left_out)}")
    lines += ["", *_fetches(forecast), *_choices(forecast.choices, prefer), _time(forecast)]
    if scopes:
        lines += textwrap.wrap(f"cache scope: {scopes}", width, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _steps(steps: Sequence[ExplainedStep], width: int) -> Iterator[str]:
    titles = {id(step): shorten(_title(step), _LONGEST_TITLE) for step in steps}
    column = 10 + max((len(title) for title in titles.values()), default=0) + 2
    stage = ""
    for step in steps:
        if step.stage.name != stage:
            stage = step.stage.name
            yield f"[{clean(stage)}]"
        first = f"  {step.action:<8}{titles[id(step)]}"
        reason = textwrap.wrap(clean(str(step.reason or "")), max(width - column, 30), break_on_hyphens=False)
        yield f"{first:<{column}}{reason[0]}" if reason else first
        yield from (" " * column + line for line in reason[1:])


def _title(step: ExplainedStep) -> str:
    number = f"{step.step.number}/{step.stage.total} " if step.step.number else ""
    return clean(number + step.step.title)


def _fetches(forecast: Forecast) -> Iterator[str]:
    sure = [fetch for fetch in forecast.fetches if fetch.certain]
    maybe = [fetch for fetch in forecast.fetches if not fetch.certain]
    if not forecast.fetches:
        yield "fetch: nothing"
    if sure:
        yield f"fetch: {_amount(sure)}, about {seconds(forecast.fetch_seconds)}"
        yield from map(_fetch, sure)
    if maybe:
        yield f"may be fetched: {_amount(maybe)}"
        yield from map(_fetch, maybe)


def _amount(fetches: Sequence[Fetch]) -> str:
    count = f"{len(fetches)} layer" + ("s" if len(fetches) != 1 else "")
    return f"{size(sum(fetch.blob.size for fetch in fetches))} in {count}"


def _fetch(fetch: Fetch) -> str:
    short = f"sha256:{hex_of(fetch.blob.digest)[:12]}"
    return f"  {short}  {size(fetch.blob.size):>8}  {clean(fetch.source)}, {_PURPOSES[fetch.purpose]}"


def _choices(choices: Sequence[Choice], prefer: str) -> Iterator[str]:
    for choice in choices:
        kept = f"all {choice.known}" if choice.reused == choice.known else f"{choice.reused} of {choice.known}"
        yield (
            f"pull or rebuild (--prefer {prefer}): {kept} known steps are kept; fetching the layers of all takes "
            f"{seconds(choice.pull_all_seconds)}, what was chosen {seconds(choice.pull_seconds)} of fetching and "
            f"{seconds(choice.rebuild_seconds)} of running"
        )


def _time(forecast: Forecast) -> str:
    total = forecast.run_seconds + forecast.fetch_seconds
    if not forecast.unknown:
        return f"time: about {seconds(total)}, of which {seconds(forecast.run_seconds)} for steps"
    names = ", ".join(shorten(_title(step), 40) for step in forecast.unknown[:3])
    more = f" and {len(forecast.unknown) - 3} more" if len(forecast.unknown) > 3 else ""
    return f"time: about {seconds(total)} and what was never run before: {names}{more}"
