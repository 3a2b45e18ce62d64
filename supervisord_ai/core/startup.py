"""Decides who may start when: the batches of the first start, and the gate that every later start goes through.

Knows nothing of processes. 131 interpreters that start at once take two cores for a second and everybody's latency with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


def batches(names: Sequence[str], batch_size: int) -> tuple[tuple[str, ...], ...]:
    """Return the names in batches, in their order; the last one may be short."""
    return tuple(tuple(names[i : i + batch_size]) for i in range(0, len(names), batch_size))


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
