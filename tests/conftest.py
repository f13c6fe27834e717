"""For all tests: the option --nightly, hypothesis without a clock, and nothing of the CI they themselves run in."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.harness import CI_VARIABLES

# Two busy cores make some examples slow; that is not what the properties are about.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


for _name in [name for name in os.environ if name.startswith(CI_VARIABLES)]:
    del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the slow extras too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--nightly"):
        return
    skip = pytest.mark.skip(reason="slow: runs with --nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)
