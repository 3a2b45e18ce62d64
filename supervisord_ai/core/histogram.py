"""Counts durations in buckets, as Prometheus does: what is kept does not grow, and a quantile can be told of it.

The bounds are seconds, from what a cached answer takes to what a caller's patience allows; two neighbours differ by less than
a factor of 2, so that a quantile is told to within a part of one bucket. What a bucket cannot tell is exact in the sum: the mean.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = (
    *(0.005, 0.01, 0.02, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.35, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.5, 5.0, 7.5),
    *(10.0, 15.0, 20.0, 35.0, 50.0, 75.0),
    *(100.0, 150.0, 200.0, 300.0),
)


@dataclass(frozen=True, slots=True)
class HistogramView:
    """A histogram at one instant. `counts` has one more than `bounds`: what was above the last."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The exact mean; None of nothing."""
        return self.sum / self.count if self.count else None

    def cumulative(self) -> list[tuple[str, int]]:
        """Return the buckets as Prometheus writes them: upper bound, and how many were not above it."""
        rows, below = [], 0
        for bound, count in zip((*map(_written, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            rows.append((bound, below))
        return rows

    def quantile(self, share: float) -> float | None:
        """Return what `histogram_quantile` of Prometheus says; None of nothing."""
        rank, below, lower = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, count in zip(self.bounds, self.counts[:-1], strict=True):
            if below + count >= rank and count:
                return lower + (bound - lower) * (rank - below) / count
            below, lower = below + count, bound
        return lower


class Histogram:
    """One histogram. Its one writer calls `observe`; others look at a `view`."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self._counts)}>"

    def observe(self, value: float) -> None:
        """Count one value: a search among 28 bounds and two additions."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def view(self) -> HistogramView:
        return HistogramView(self._bounds, tuple(self._counts), self._sum)


def _written(bound: float) -> str:
    return repr(float(bound))
