"""The two clocks: monotonic for deadlines, wall for rows and people.

`monotonic` is trio's clock, so tests run in virtual time. Its origin differs between two runs: never store it. Rows hold
wall seconds; after a restart a deadline is `deadline_wall - wall()` from now.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import trio


class Clock(Protocol):
    """Tells the time. Shells read it once per decision and pass `now` to the core."""

    def monotonic(self) -> float:
        """Seconds on trio's clock; only differences mean anything."""

    def wall(self) -> float:
        """Seconds since 1970 UTC; may step."""


class SystemClock:
    """The real machine's clocks."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return time.time()


@dataclass(frozen=True)
class VirtualClock:
    """For simulated processes: wall time is an epoch plus trio's (mock) clock."""

    epoch: float = 1_800_000_000.0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return self.epoch + trio.current_time()
