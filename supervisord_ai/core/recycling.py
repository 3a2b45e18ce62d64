"""Decides which agents have run long enough (`max_age`) and are started anew, a few at a time.

Knows no processes. Each generation gets an age of its own, a tenth more or less than its class says: 131 that started together
must not be recycled together. They go through the budget of a rollout: nobody is taken while one is under way, and never more
are down or unproved at once than its group has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Aged:
    """One agent that runs. `draw`: a uniform number in [0, 1) that stays the same for the whole generation."""

    name: str
    age_s: float
    max_age_s: float
    draw: float

    @property
    def over_s(self) -> float:
        """How much longer it has run than it is to."""
        return self.age_s - self.max_age_s * (1 - SPREAD + 2 * SPREAD * self.draw)


def due(agents: Iterable[Aged], *, in_hand: int, group_size: int, is_held: bool) -> tuple[str, ...]:
    """Return who is started anew now, the longest overdue first. `in_hand`: how many are down or unproved already."""
    if is_held:
        return ()
    over = sorted((one for one in agents if one.max_age_s > 0 and one.over_s >= 0), key=lambda one: -one.over_s)
    return tuple(one.name for one in over[: max(0, group_size - in_hand)])
