"""The level in force, as the gateway knows it: what it changes, since when, why, and for how long about."""

from __future__ import annotations

from dataclasses import replace

from supervisord_ai.clock import Clock
from supervisord_ai.core.degradation import OWNER, lifts_in_s
from supervisord_ai.core.degraded import Degraded
from supervisord_ai.core.effects import Effects, effects_at
from supervisord_ai.core.estimate import RETRY_AFTER_MAX_S
from supervisord_ai.core.events import LevelChanged
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.pressure import Component
from supervisord_ai.gateway.outlook import Outlook


class LevelInForce:
    """What was told last. `follow` is its one writer; every step of a request's path may look."""

    def __init__(self, policy: LevelsPolicy, outlook: Outlook, clock: Clock, *, deadline_s: float) -> None:
        self.effects = Effects()
        self._of_level = Effects()
        self._is_urgent_only = False
        self._policy = policy
        self._outlook = outlook
        self._clock = clock
        self._deadline_s = deadline_s
        self._cause = ""
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<level {self.effects.level.word} in force>"

    def follow(self, event: LevelChanged) -> None:
        """Go by another level from now on."""
        self._of_level = effects_at(self._policy, event.after)
        self._cause, self._since = event.cause, event.at
        self._join()

    def admit_urgent_only(self, is_so: bool) -> None:
        """Let only urgent requests in whatever the level is: memory is short, and nobody is left to shed."""
        self._is_urgent_only = is_so
        self._join()

    def _join(self) -> None:
        only = self._policy.priority_only if self._is_urgent_only else self._of_level.priority_only
        self.effects = replace(self._of_level, priority_only=only)

    def allows(self, degraded: Degraded | None) -> bool:
        """Whether whoever comes now may be given an answer to which that was done."""
        return degraded is None or degraded.level <= self.effects.level

    def lifts_in_s(self) -> float:
        """Return in about how many seconds this level will be left. What its owner pinned holds for as long as he wants."""
        if self._of_level.priority_only is None:
            return self._policy.dwell_s  # it is memory: so long it has to be calm before all are let in
        if self._cause == OWNER:
            return RETRY_AFTER_MAX_S
        wait_share = self._outlook.load(0).wait_share if self._cause == Component.QUEUE else None
        return lifts_in_s(
            self._policy,
            self.effects.level,
            held_for_s=self._clock.monotonic() - self._since,
            wait_share=wait_share,
            within_s=self._deadline_s,
        )
