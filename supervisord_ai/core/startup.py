"""Decides when an agent that ended may start again: through a gate that all of them share.

Knows nothing of processes. 131 interpreters that start at once take two cores for a second and everybody's latency with it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class StartGate:
    """At most `limit` restarts in any `window_s`, in the order of asking."""

    limit: int = 10
    window_s: float = 2.0
    given: deque[float] = field(default_factory=deque)

    def reserve(self, now: float) -> float:
        """Return the time from which the asker may start. A reservation that is not used is lost: rare, and harmless."""
        at = now if len(self.given) < self.limit else max(now, self.given[0] + self.window_s)
        self.given.append(at)
        if len(self.given) > self.limit:
            self.given.popleft()
        return at
