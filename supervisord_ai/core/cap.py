"""Decides when an agent without a cgroup is over its memory cap. Knows nothing of processes; it is told what was measured.

One sample over the cap is not enough: a process that forks shows its pages twice for a moment. One far over it is, because
the next second may be too late for the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CapDeed(StrEnum):
    """What is to be done about an agent's memory."""

    NOTHING = "nothing"
    END = "end"  # TERM, and KILL after its grace
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class CapPolicy:
    """How soft the soft form is. `data_ratio` is the backstop: RLIMIT_DATA of each process, in caps."""

    samples: int = 3
    kill_ratio: float = 1.2
    data_ratio: float = 1.25


@dataclass(slots=True)
class CapWatch:
    """The samples of one generation."""

    cap_bytes: int
    policy: CapPolicy = CapPolicy()
    over: int = 0

    def judge(self, used_bytes: int) -> CapDeed:
        """Take one sample and return what is to be done."""
        self.over = self.over + 1 if used_bytes > self.cap_bytes else 0
        if used_bytes > self.cap_bytes * self.policy.kill_ratio:
            return CapDeed.KILL
        return CapDeed.END if self.over >= self.policy.samples else CapDeed.NOTHING
