"""What several contract suites start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from .double_bench import recorded_double
from .gateway_bench import Bench, gateway_before


@pytest.fixture
async def bench(tmp_path: Path, autojump_clock: trio.abc.Clock) -> AsyncIterator[Bench]:
    """A gateway before the server of the transcripts.

    A test names `autojump_clock` too: pytest-trio looks for a clock among its own arguments only.
    """
    async with gateway_before(recorded_double(), tmp_path) as bench:
        yield bench
