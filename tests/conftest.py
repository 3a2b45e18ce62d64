"""What every suite starts from."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# Where a red run stops others, the examples are the same on every run; here at home each run looks at new ones. How long one
# takes decides nothing: a machine that has something else to do is slower.
settings.register_profile("home", deadline=None)
settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"1", "true"} else "home")

# How wide the terminal is from which the tests are run, or what a runner of tests takes it for, must decide nothing.
os.environ.pop("COLUMNS", None)

# A test that exhausts the stack takes the tracer of coverage along, and nothing would be counted any more: the next gets it back.
_TRACER = sys.gettrace()


def pytest_runtest_setup() -> None:
    if sys.gettrace() is not _TRACER:
        sys.settrace(_TRACER)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at its mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have `--dist loadgroup` run what is real one by one, and beside it those that wait for minutes and mind nobody."""
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group("patient" if item.get_closest_marker("patient") else "one by one"))
