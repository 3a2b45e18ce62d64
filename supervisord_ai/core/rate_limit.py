"""Decides when an agent's next request may start so that it keeps its rate. Knows nothing of queues.

The generic cell rate algorithm (ITU-T I.371, the form of RFC 2697's token bucket that needs one number): `_full_at` is when the
bucket will be full again. A minute's worth may come at once; after that each request gets the next place in time, so that
a caller over its rate waits instead of being refused.
"""

from __future__ import annotations


class Rate:
    """The bucket of one caller."""

    def __init__(self, per_min: float) -> None:
        if per_min <= 0:
            raise ValueError("a rate is more than zero; no limit is no Rate")
        self._interval_s = 60.0 / per_min
        self._burst_s = 60.0 - self._interval_s if per_min > 1 else 0.0
        self._full_at = float("-inf")

    def next_at(self, now: float) -> float:
        """Return when a request that comes now may start, without taking that place."""
        return max(now, self._full_at - self._burst_s)

    def take(self, now: float) -> float:
        """Take the next place and return its time."""
        at = self.next_at(now)
        self._full_at = max(now, self._full_at) + self._interval_s
        return at

    def changed(self, per_min: float, now: float) -> Rate:
        """Return the bucket with another rate. What was taken stays taken: a change is no fresh burst."""
        other = Rate(per_min)
        taken = max(0.0, self._full_at - now) / self._interval_s
        other._full_at = now + taken * other._interval_s
        return other
