"""The process around the command line."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ci_plugins import __main__ as process


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_the_collector_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[int] = []

    def main() -> int:
        during.append(gc.get_threshold()[0])
        return 7

    monkeypatch.setattr("ci_plugins.cli.main", main)
    gc.unfreeze()
    assert process.run() == 7
    assert during[0] >= 50_000, "a small build is done before the first collection"
    assert gc.get_freeze_count() > 0, "the interpreter looks through everything once more at its end"
