"""From samples to levels: asks the cores, and tells every room when another level holds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisord_ai.clock import Clock
from supervisord_ai.core.degradation import Change, Degradation, Pin, enters_at, leaves_below
from supervisord_ai.core.effects import Level
from supervisord_ai.core.events import LevelChanged
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.pressure import Pressure, pressure_of
from supervisord_ai.core.samples import Sample
from supervisord_ai.health.view import ComponentView, LevelView, PinView, StepView

log = logging.getLogger(__name__)


class Ladder:
    """Holds the level. `tell` carries `LevelChanged` to whoever acts on it."""

    def __init__(
        self, policy: LevelsPolicy, *, reserve_bytes: int, tell: Callable[[LevelChanged], None], clock: Clock
    ) -> None:
        self._degradation = Degradation(policy)
        self._reserve_bytes = reserve_bytes
        self._send = tell
        self._clock = clock
        self._pressure: Pressure | None = None
        self._held_since: float | None = None  # from the first sample on
        self._reason = "nothing was measured yet"

    def __repr__(self) -> str:
        return f"<Ladder {self._degradation!r}>"

    @property
    def level(self) -> Level:
        """The level that holds."""
        return self._degradation.level

    def take(self, sample: Sample) -> None:
        """Judge a sample."""
        self._pressure = pressure_of(sample, reserve_bytes=self._reserve_bytes)
        now = self._clock.monotonic()
        if self._held_since is None:
            self._held_since, self._reason = now, self._degradation.reason
        step = self._degradation.step(self._pressure, now)
        if step.decided is not None and step.held is None:
            what = step.decided
            log.warning("level %s would hold now (%s holds): %s", what.after.word, self.level.word, what.reason)
        if step.held is not None:
            self._changed(step.held)

    def pin(self, level: Level, for_s: float | None = None) -> None:
        """Hold a level, for so long or until `unpin`."""
        until = None if for_s is None else self._clock.monotonic() + for_s
        self._changed(self._degradation.pin(Pin(level, until)))

    def unpin(self) -> None:
        """Go by what is decided again."""
        self._changed(self._degradation.pin(None))

    def _changed(self, change: Change | None) -> None:
        if change is None:
            return
        now = self._clock.monotonic()
        self._held_since, self._reason = now, change.reason
        log.warning("level %s -> %s: %s", change.before.word, change.after.word, change.reason)
        self._send(LevelChanged(change.before, change.after, change.reason, change.cause, now))

    def statistics(self) -> LevelView:
        """Return everything for people."""
        now, ladder = self._clock.monotonic(), self._degradation
        policy, smoothed = ladder.policy, ladder.smoothed
        pinned = ladder.pinned
        return LevelView(
            level=ladder.level,
            decided=ladder.decided,
            since_s=now - self._held_since if self._held_since is not None else 0.0,
            reason=self._reason,
            cause=ladder.cause,
            components=tuple(
                ComponentView(component.value, pressed.value, smoothed.get(component), pressed.why)
                for component, pressed in self._pressure or ()
            ),
            pin=None if pinned is None else PinView(pinned.level, None if pinned.until is None else pinned.until - now),
            is_shadow=policy.shadow,
            steps=tuple(StepView(level, enters_at(policy, level), leaves_below(policy, level)) for level in Level if level),
            down_in_s=max(0.0, policy.dwell_s - ladder.decided_for_s) if ladder.decided else None,
            policy=policy,
        )
