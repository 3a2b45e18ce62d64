"""Decides whether an agent that promised heartbeats is hung. Knows nothing of sockets or processes.

Only who promised is watched: `WATCHDOG_USEC=N` on the notify socket says that a `WATCHDOG=1` will come at least every N. The
watch is suspended while there is a reason why none could come (its own call waits in our queue, it is being slowed down) or
none need come (it is going down); afterwards it has a whole period again. A model that takes ten minutes hangs nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_S = 1.0  # who promises more is not measured by it: a busy machine is late by a part of a second
MOST_S = 86_400.0


class Pause(StrEnum):
    """Why no heartbeat is expected for now."""

    CALLS = "calls"  # it waits for an answer of ours
    THROTTLED = "throttled"  # it is being slowed down, or stopped, from outside
    STOPPING = "stopping"  # it said that it goes down


@dataclass(slots=True)
class Liveness:
    """The heartbeats of one generation. Times are seconds on one monotonic clock."""

    period_s: float | None = None
    last_at: float = -math.inf
    has_given_up: bool = False  # it says itself that it is beyond help
    pauses: set[Pause] = field(default_factory=set)

    def promised(self, period_s: float, now: float) -> None:
        """It will be heard at least this often from now on; 0: it promises nothing any more."""
        self.period_s = min(MOST_S, max(LEAST_S, period_s)) if period_s > 0 else None
        self.last_at = now

    def beat(self, now: float) -> None:
        self.last_at = now

    def gave_up(self) -> None:
        """`WATCHDOG=trigger`: treat it as one that is hung."""
        self.has_given_up = True

    def pause(self, why: Pause) -> None:
        self.pauses.add(why)

    def resume(self, why: Pause, now: float) -> None:
        if why in self.pauses:
            self.pauses.discard(why)
            self.last_at = max(self.last_at, now)

    @property
    def due(self) -> float:
        """When it counts as hung, unless it is heard before."""
        if self.has_given_up:
            return -math.inf
        return math.inf if self.period_s is None or self.pauses else self.last_at + self.period_s

    def is_hung(self, now: float) -> bool:
        return now >= self.due

    def why(self, now: float) -> str:
        """Say why it counts as hung."""
        if self.has_given_up or self.period_s is None:
            return "it said so itself (WATCHDOG=trigger)"
        return f"no heartbeat for {now - self.last_at:.1f} s, it promised one every {self.period_s:g} s"
