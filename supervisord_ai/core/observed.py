"""Decides when an agent whose cap is only observed (`[memory] enforce`) would have been over it, and how often to say so.

Knows nothing of groups or processes. What counts is the memory that a limit could not take back: pages of files are no reason
for anybody's end. It is told once for each generation, and again when it has grown by a step: a leak is one story and not one a
second.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP = 1.05


@dataclass(slots=True)
class Excess:
    """How far one generation has been over a cap that does not bind. `highest_bytes` is 0 while it never was."""

    highest_bytes: int = 0
    told_bytes: int = 0

    def judge(self, needed_bytes: int, cap_bytes: int) -> bool:
        """Take one look and return whether it is to be told."""
        if needed_bytes <= cap_bytes:
            return False
        self.highest_bytes = max(self.highest_bytes, needed_bytes)
        if self.told_bytes and needed_bytes < self.told_bytes * STEP:
            return False
        self.told_bytes = needed_bytes
        return True
