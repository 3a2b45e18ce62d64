"""Watches the machine's memory and says, step by step, what is given up and what is given back.

It is driven by the samples, once a second. What is to be done goes to every room as `ReliefDecided`: the fleet pauses starts and
sheds, the gateway drops its answers in memory and admits less; the daemon writes each step into the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from supervisord_ai.clock import Clock
from supervisord_ai.core.events import ReliefDecided
from supervisord_ai.core.relief import FleetRoom, MemoryReading, Relief, ReliefPolicy, Step
from supervisord_ai.core.samples import Sample
from supervisord_ai.health.view import ReliefView

log = logging.getLogger(__name__)


class ReliefWatch:
    """`fleet` says what the fleet can still give; `tell` carries what was decided."""

    def __init__(
        self,
        policy: ReliefPolicy,
        *,
        fleet: Callable[[], FleetRoom],
        tell: Callable[[ReliefDecided], None],
        clock: Clock,
    ) -> None:
        self._relief = Relief(policy)
        self._fleet = fleet
        self._send = tell
        self._clock = clock
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<ReliefWatch {self._relief.step.name.lower()}>"

    def take(self, sample: Sample) -> None:
        """Judge a sample; one without memory changes nothing."""
        machine = sample.machine
        if machine.available_bytes is None:
            return
        reading = MemoryReading(
            available_bytes=machine.available_bytes,
            refaulted_per_s=machine.refaults_per_s,
            waiting=machine.memory.full if machine.memory is not None else None,
            fleet_limit_hits=machine.fleet_limit_hits,
        )
        before = self._relief.step
        now = self._clock.monotonic()
        for deed in self._relief.judge(reading, self._fleet(), now):
            reason = self._relief.reason or "memory is back"
            log.warning("memory: %s: %s", deed.word.replace("-", " "), reason)
            self._send(ReliefDecided(deed, reason, machine.available_bytes))
        if self._relief.step is not before:
            self._since = now

    def statistics(self) -> ReliefView:
        """Return where the machine stands."""
        step, policy = self._relief.step, self._relief.policy
        return ReliefView(
            step=step.name.lower(),
            reason=self._relief.reason,
            since_s=self._clock.monotonic() - self._since if step is not Step.NOTHING else 0.0,
            reserve_bytes=policy.reserve_bytes,
            calm_bytes=round(policy.reserve_bytes * policy.calm_ratio),
        )
