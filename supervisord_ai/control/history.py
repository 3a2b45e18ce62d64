"""An hour of the daemon in points of ten seconds, for the charts of the page. Kept whether anybody looks or not: 60 KB."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisord_ai.clock import Clock
from supervisord_ai.control.glance import quantiles
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.samples import Sample
from supervisord_ai.gateway.measures import Took
from supervisord_ai.gateway.view import GatewayPulse, Totals
from supervisord_ai.health.view import LevelView

EVERY_S = 10.0
POINTS = 360
TIMES_OVER_S = 60.0  # a quantile of fewer seconds would be of one or two requests

Point = dict[str, float | None]
Json = dict[str, Any]


class History:
    """Keeps the points. `note` is a periodic duty, its one writer."""

    def __init__(
        self,
        *,
        clock: Clock,
        sample: Callable[[], Sample | None],
        level: Callable[[], LevelView],
        gateway: Callable[[], GatewayPulse],
        took: Callable[[float], Sequence[Took]],
        states: Callable[[], Mapping[AgentState, int]],
    ) -> None:
        self._clock = clock
        self._sample = sample
        self._level = level
        self._gateway = gateway
        self._took = took
        self._states = states
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._before: Totals | None = None

    def __repr__(self) -> str:
        return f"<History of {len(self._points)} points>"

    async def note(self) -> None:
        """Add the point of now."""
        now = self._clock.monotonic()
        pulse, level, sample = self._gateway(), self._level(), self._sample()
        before, totals = self._before or Totals(), pulse.totals
        self._before = totals
        waits = self._took(now - TIMES_OVER_S)
        wait, generation = (
            quantiles(one.wait_s + one.load_s for one in waits),
            quantiles(one.first_token_s + one.generation_s for one in waits),
        )
        machine = sample.machine if sample is not None else None
        vram = [gpu.used for gpu in (machine.gpus if machine else None) or () if gpu.used is not None]
        pressures = {one.name: one.smoothed for one in level.components}
        point: Point = {
            "at": self._clock.wall(),
            "level": float(level.level),
            **{f"pressure_{name}": pressures.get(name) for name in ("queue", "memory", "cpu")},
            "queued": float(pulse.queued),
            "running": float(pulse.running),
            "oldest_s": sample.load.oldest_s if sample is not None else None,
            "answered": _per_min(totals.answered - before.answered),
            "cached": _per_min(totals.cached - before.cached),
            "refused": _per_min(totals.refused - before.refused),
            "failed": _per_min(totals.failed - before.failed),
            "tokens": (totals.tokens - before.tokens) / EVERY_S,
            **{f"wait_{name}": value for name, value in wait.items()},
            **{f"generation_{name}": value for name, value in generation.items()},
            "busy": machine.busy if machine else None,
            "memory": _used(machine.total_bytes, machine.available_bytes) if machine else None,
            "vram": max(vram, default=None),
            "agents": float(self._states().get(AgentState.RUNNING, 0)),
        }
        self._points.append({name: None if value is None else round(value, 3) for name, value in point.items()})

    @property
    def last(self) -> Point | None:
        """The latest point."""
        return self._points[-1] if self._points else None

    def columns(self) -> dict[str, list[float | None]]:
        """Return every figure over the hour, oldest first."""
        names = dict.fromkeys(itertools.chain.from_iterable(self._points))
        return {name: [point.get(name) for point in self._points] for name in names}


def _per_min(count: int) -> float:
    return count * 60.0 / EVERY_S


def _used(total: int | None, available: int | None) -> float | None:
    return 1 - available / total if total and available is not None else None
