"""Estimates how long a call holds a slot and how long the backlog takes. Knows only what calls took so far.

The mean of each model is exponential over its last calls, because a model's speed changes with its load and its prompts, and
an hour-old figure would lie. It is used for `Retry-After`, for the position report and to charge a running call before it
ends; nothing is refused on an estimate alone.
"""

from __future__ import annotations

import math

FIRST_GUESS_S = 5.0  # a 3B model, a hundred tokens, a small GPU
SMOOTHING = 0.2  # the last ten calls carry nine tenths of the mean
RETRY_AFTER_MAX_S = 60.0  # clients ignore more


class ServiceTimes:
    """How long calls of each model hold a slot, in seconds."""

    def __init__(self) -> None:
        self._mean_s: dict[str | None, float] = {}
        self._overall_s: float | None = None

    def note(self, model: str | None, took_s: float) -> None:
        """Learn from a call that ended well."""
        self._mean_s[model] = _blend(self._mean_s.get(model), took_s)
        self._overall_s = _blend(self._overall_s, took_s)

    def of(self, model: str | None) -> float:
        """Return the expected seconds of one call of this model."""
        known = self._mean_s.get(model, self._overall_s)
        return FIRST_GUESS_S if known is None else known

    def wait_s(self, ahead: int, slots: int) -> float:
        """Return the expected wait behind `ahead` calls that share `slots`."""
        mean_s = FIRST_GUESS_S if self._overall_s is None else self._overall_s
        return ahead * mean_s / max(slots, 1)


def retry_after(wait_s: float) -> float:
    """Return whole seconds for `Retry-After`: honest, at least 1, at most what clients heed."""
    return float(min(RETRY_AFTER_MAX_S, max(1, math.ceil(wait_s))))


def _blend(old_s: float | None, new_s: float) -> float:
    return new_s if old_s is None else old_s + SMOOTHING * (new_s - old_s)
