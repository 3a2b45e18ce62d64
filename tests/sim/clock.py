"""Virtual time that costs nothing while nothing happens."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.testing import MockClock

STRIDE_S = 300.0


class Leaps:
    """Leaps to the next deadline as soon as everybody waits, and in strides while the world lies still.

    `still_until` returns the second up to which nothing is planned, nothing is asked and nothing went wrong lately, or None.
    Up to there the clock goes by `STRIDE_S` at once: what the daemon does every second it then does once in a stride, as it
    would where its machine was suspended for that long. Every other second is lived through one by one.

    Trio leaps with its own MockClock alone, which may not be subclassed; `clock` is one that asks here what to do.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.still_until: Callable[[], float | None] = lambda: None
        self.strides = 0
        self.clock = MockClock(autojump_threshold=0)
        for name, deed in (("current_time", self._current_time), ("_autojump", self._leap)):
            setattr(self.clock, name, deed)

    def _current_time(self) -> float:
        return self._now

    def _leap(self) -> None:
        at = GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        until = self.still_until()
        if until is not None and until > at:
            at = max(at, min(self._now + STRIDE_S, until))
            self.strides += 1
        if self._now < at < float("inf"):
            self._now = at


class SteppingClock:
    """Wall time can be stepped, monotonic time cannot."""

    def __init__(self, epoch: float = 1_800_000_000.0) -> None:
        self.step_s = 0.0
        self._epoch = epoch

    def monotonic(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return self._epoch + self.step_s + trio.current_time()
