"""Decides which level holds, from pressures over time. Knows nothing of what a level changes, nor of how pressure is measured.

1. Each component is smoothed by itself, memory quickly since it kills, the processors slowly since they only delay. The largest
   of them decides and is the cause.
2. Up: as soon as it reaches the threshold of a level, to the highest one it reaches.
3. Down: one level at a time, when it is below that level's threshold by `leave_below` and the level has held for `dwell_s`.
4. After a step down nothing goes up for `dwell_s`. This is what noise would do: so on noise there is one change a minute at most.
   Two things are no noise: a level that was not reached for ten times as long, and memory that is at its critical threshold.
5. A sensor that is lost counts as it last was for `dwell_s`, then not at all.
6. Time is what passes between samples, at most `GAP_S` of it: neither a clock that steps nor a machine that slept makes a level
   older than it was lived through.

The level its owner pins holds in place of the decided one, and in shadow mode level 0 does; deciding goes on under both.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from supervisord_ai.core.effects import Level
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.pressure import Component, Pressure

SMOOTHING_S = {Component.QUEUE: 8.0, Component.MEMORY: 3.0, Component.CPU: 30.0}
GAP_S = 5.0
NEWS_AFTER_DWELLS = 10.0
OWNER = "owner"
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Change:
    """Another level. `reason` names the cause with its figures."""

    before: Level
    after: Level
    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a sample brought: another level that holds, another one that was decided, each or neither."""

    held: Change | None = None
    decided: Change | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """The level its owner wants. `until` is monotonic, None for as long as he wants."""

    level: Level
    until: float | None = None


@dataclass(slots=True)
class _Smoothed:
    value: float
    known_at: float


def enters_at(policy: LevelsPolicy, level: Level) -> float:
    """Return the pressure at which a level is entered."""
    return policy.enter[level - 1] if level > Level.NORMAL else 0.0


def leaves_below(policy: LevelsPolicy, level: Level) -> float:
    """Return the pressure below which a level is left."""
    return enters_at(policy, level) - policy.leave_below


def lifts_in_s(
    policy: LevelsPolicy, level: Level, *, held_for_s: float, wait_share: float | None = None, within_s: float = 0.0
) -> float:
    """Return in about how many seconds a level will be left, were nobody to come whom it turns away.

    At the earliest when it has held for its dwell. Else when the backlog that is its cause is short enough: `wait_share` is what
    it is pressed now, `within_s` the time that callers have. It gets shorter by a second in each second; one that is too long
    for its callers does so faster, since at its old end they are answered and give up at the same time: were they to come
    evenly, all of it is gone after `within_s`. The smoothed figure follows that fall with its delay.
    """
    dwell_s = max(0.0, policy.dwell_s - held_for_s)
    share = wait_share or 0.0
    short_enough_s = (share - leaves_below(policy, level)) * within_s / max(1.0, share)
    return max(dwell_s, _seen_after_s(short_enough_s) if short_enough_s > 0 else 0.0)


def _seen_after_s(fallen_after_s: float) -> float:
    """Return when the smoothed pressure of a queue that falls evenly is where the pressure itself is after so many seconds.

    It runs behind by its time constant in the end, and by less in the beginning: t = fallen_after + lag * (1 - exp(-t / lag)).
    """
    lag_s = SMOOTHING_S[Component.QUEUE]
    at_s = fallen_after_s + lag_s
    for _ in range(_ROUNDS):  # each comes nearer, from above
        at_s = fallen_after_s + lag_s * (1 - math.exp(-at_s / lag_s))
    return at_s


class Degradation:
    """The level. The one writer of it."""

    def __init__(self, policy: LevelsPolicy) -> None:
        self.policy = policy
        self.pinned: Pin | None = None
        self.decided = Level.NORMAL
        self.reason = "nothing is pressed"
        self.cause = ""
        self._held = Level.NORMAL
        self._time = 0.0  # lived through, see 6
        self._last_now: float | None = None
        self._changed_at = -math.inf
        self._went_down_at = -math.inf
        self._reached: deque[tuple[float, Level]] = deque()  # when a level was last held
        self._smoothed: dict[Component, _Smoothed] = {}

    def __repr__(self) -> str:
        return f"<Degradation {self.level.word}, decided {self.decided.word}, {self.smoothed}>"

    @property
    def level(self) -> Level:
        """The level that holds."""
        if self.pinned is not None:
            return self.pinned.level
        return Level.NORMAL if self.policy.shadow else self.decided

    @property
    def smoothed(self) -> dict[Component, float]:
        """The components that count, smoothed."""
        return {component: one.value for component, one in self._smoothed.items()}

    @property
    def decided_for_s(self) -> float:
        """How long the decided level has been so; infinity since the beginning."""
        return self._time - self._changed_at

    # --- what changes it -----------------------------------------------------------------------------------------------

    def step(self, pressure: Pressure, now: float) -> Step:
        """Take one sample's pressure."""
        passed_s = 0.0 if self._last_now is None else min(max(now - self._last_now, 0.0), GAP_S)
        self._last_now = now
        self._time += passed_s
        self._smooth(pressure, passed_s)
        before, held_before = self.decided, self.level
        self._decide(pressure)
        pinned = self.pinned
        if pinned is not None and pinned.until is not None and now >= pinned.until:
            self.pinned = None
        decided = Change(before, self.decided, self.reason, self.cause) if self.decided is not before else None
        return Step(held=self._now_holds(held_before), decided=decided)

    def pin(self, pin: Pin | None) -> Change | None:
        """Hold a level whatever is decided, or (None) go by what is decided again."""
        before = self.level
        self.pinned = pin
        return self._now_holds(before)

    def _now_holds(self, before: Level) -> Change | None:
        after = self.level
        if after is before:
            return None
        if self.pinned is not None:
            return Change(before, after, "its owner pinned it", OWNER)
        return Change(before, after, self.reason, self.cause or OWNER)

    # --- smoothing -----------------------------------------------------------------------------------------------------

    def _smooth(self, pressure: Pressure, passed_s: float) -> None:
        for component, pressed in pressure:
            known = self._smoothed.get(component)
            if pressed.value is None:
                if known is not None and self._time - known.known_at > self.policy.dwell_s:  # 5
                    del self._smoothed[component]
            elif known is None:
                self._smoothed[component] = _Smoothed(0.0, self._time)  # one sample alone alarms nobody
            else:
                weight = 1 - math.exp(-passed_s / SMOOTHING_S[component])
                known.value += weight * (pressed.value - known.value)
                known.known_at = self._time

    # --- deciding ------------------------------------------------------------------------------------------------------

    def _decide(self, pressure: Pressure) -> None:
        cause = max(self._smoothed, key=lambda component: self._smoothed[component].value, default=None)
        largest = self._smoothed[cause].value if cause is not None else 0.0
        reached = max(level for level in Level if largest >= enters_at(self.policy, level))
        leave_at = leaves_below(self.policy, self.decided)
        if cause is not None and reached > self.decided and self._may_rise(reached, cause):  # 2
            threshold, why = enters_at(self.policy, reached), dict(pressure)[cause].why
            self._become(reached, f"{cause} pressure {largest:.2f} reached {threshold:.2f}: {why}", cause)
        elif self.decided > Level.NORMAL and largest < leave_at and self.decided_for_s >= self.policy.dwell_s:  # 3
            self._went_down_at = self._time
            what = f"{cause} pressure {largest:.2f}" if cause is not None else "nothing is measured any more, so pressure"
            self._become(Level(self.decided - 1), f"{what} is below {leave_at:.2f}", cause or "")

    def _may_rise(self, level: Level, cause: Component) -> bool:
        """Whether a rise is no noise. 4"""
        if self._time - self._went_down_at >= self.policy.dwell_s:
            return True
        if level is Level.CRITICAL and cause is Component.MEMORY:
            return True
        since = self._time - NEWS_AFTER_DWELLS * self.policy.dwell_s
        while self._reached and self._reached[0][0] < since:
            self._reached.popleft()
        return all(held < level for _, held in self._reached)

    def _become(self, level: Level, reason: str, cause: str) -> None:
        self._reached.append((self._time, self.decided))  # it was held until now
        self.decided, self.reason, self.cause = level, reason, cause
        self._changed_at = self._time
