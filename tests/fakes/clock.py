"""A clock that stands still until a test moves it, for what needs no event loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StillClock:
    """A `Clock`: both of its times are `now`, the wall an epoch later."""

    now: float = 0.0
    epoch: float = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.epoch + self.now
