"""Makes the named figures (core/figures.py) of what the rooms show of themselves. Decides nothing.

It is asked every second, so it takes what costs nothing: counts, and the latest sample. Rates are over the last minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from supervisord_ai.agents.view import FleetPulse
from supervisord_ai.clock import Clock
from supervisord_ai.control.report import Usage
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.figures import Value
from supervisord_ai.core.roster import MB
from supervisord_ai.core.samples import Load, Machine, Sample
from supervisord_ai.gateway.view import GatewayPulse, Totals
from supervisord_ai.health.view import LevelView

MINUTE_S = 60.0
READY = "ready"


class Figures:
    """All figures at one instant, each time it is called."""

    def __init__(
        self,
        *,
        sample: Callable[[], Sample | None],
        fleet: Callable[[], FleetPulse],
        gateway: Callable[[], GatewayPulse],
        level: Callable[[], LevelView],
        usage: Callable[[], Usage],
        disk_free_bytes: Callable[[], int | None],
        reserve_bytes: int,
        clock: Clock,
    ) -> None:
        self._sample = sample
        self._fleet = fleet
        self._gateway = gateway
        self._level = level
        self._usage = usage
        self._disk_free_bytes = disk_free_bytes
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._counted: deque[tuple[float, Totals]] = deque()

    def __call__(self) -> dict[str, Value | None]:
        gateway, fleet = self._gateway(), self._fleet()
        sample = self._sample()
        machine, load = (sample.machine, sample.load) if sample is not None else (Machine(), Load())
        refused, failed = self._per_min(gateway.totals)
        available = machine.available_bytes
        vram = [gpu.used for gpu in machine.gpus or () if gpu.used is not None]
        level = self._level()
        pressure = {one.name: one.smoothed for one in level.components}
        return {
            "level": float(level.level),
            **{f"pressure.{name}": pressure.get(name) for name in ("queue", "memory", "cpu")},
            "queue.queued": float(gateway.queued),
            "queue.async": float(gateway.queued_async),
            "queue.running": float(gateway.running),
            "queue.oldest_s": load.oldest_s,
            "requests.refused_per_min": refused,
            "requests.failed_per_min": failed,
            "agents.running": float(fleet.states.get(AgentState.RUNNING, 0)),
            "agents.waiting": float(fleet.states.get(AgentState.BACKOFF, 0)),
            "agents.quarantined": float(fleet.states.get(AgentState.QUARANTINED, 0)),
            "agents.shed": float(len(fleet.shed)),
            "backends.down": float(sum(one.state != READY for one in gateway.backends)),
            **{f"backend.{one.name}.state": one.state for one in gateway.backends},
            **{f"backend.{one.name}.breaker": one.breaker for one in gateway.backends},
            **{f"backend.{one.name}.busy": float(one.busy) for one in gateway.backends},
            "models.on_cpu": float(len(gateway.models_on_cpu)),
            "models.slow": float(len(gateway.models_slow)),
            "memory.available_mb": _mb(available),
            "memory.of_reserve": available / self._reserve_bytes if available is not None and self._reserve_bytes else None,
            "memory.swap_used_mb": _mb(machine.swap_used_bytes),
            "memory.daemon_mb": _mb(self._usage().rss_bytes),
            "gpu.vram_used": max(vram, default=None),
            "disk.free_mb": _mb(self._disk_free_bytes()),
        }

    def _per_min(self, totals: Totals) -> tuple[float, float]:
        now = self._clock.monotonic()
        self._counted.append((now, totals))
        while self._counted[0][0] < now - MINUTE_S:
            self._counted.popleft()
        before = self._counted[0][1]
        return float(totals.refused - before.refused), float(totals.failed - before.failed)


def _mb(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / MB
