"""Decides which model is unloaded when graphics memory runs full. Knows nothing of Ollama's API or of NVML.

The least useful model that nobody uses and nobody waits for goes: the one with the least slot-seconds lately, then the one that
was used longest ago. Where every loaded model is in use, the least used of them is drained, rarely: its callers load it again.

Never unloaded is a model while anything is being loaded on its backend (Ollama answers "unload" then, and does nothing; and
what is used is in motion), one that takes no graphics memory, one that has just been loaded, and the only one of its backend:
nothing of ours waits for its room, and its next caller would pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnloadPolicy:
    """`at`: [gpu] `unload_at`, a share of the graphics memory; 0 or 1 turns it off."""

    at: float = 0.90
    samples: int = 2  # one sample above is a model that is just being exchanged
    again_after_s: float = 6.0  # Ollama waits up to 5 s for memory to come back (server/sched.go)
    busy_again_after_s: float = 60.0
    fresh_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `used_s`: slot-seconds lately; times are monotonic."""

    name: str
    backend: str
    vram_bytes: int
    in_flight: int
    queued: int
    used_s: float
    last_used_at: float
    loaded_at: float

    @property
    def is_idle(self) -> bool:
        return not self.in_flight and not self.queued


@dataclass(frozen=True, slots=True)
class Unload:
    """Drain this model and unload it, then look whether it is gone."""

    name: str
    backend: str
    is_idle: bool
    reason: str


@dataclass(slots=True)
class VramWatch:
    """The readings of the machine's GPUs, the fullest counts."""

    policy: UnloadPolicy
    above: int = 0
    unloaded_at: float = -math.inf
    drained_at: float = -math.inf

    def judge(self, used: float | None, residents: Iterable[Resident], loading: frozenset[str], now: float) -> Unload | None:
        """Take one reading; return what is to be unloaded. `loading`: the backends on which something is being loaded."""
        if used is None or not 0 < self.policy.at < 1 or used < self.policy.at:
            self.above = 0
            return None
        self.above += 1
        if self.above < self.policy.samples or now - self.unloaded_at < self.policy.again_after_s:
            return None
        models = list(residents)
        crowd = {backend for backend in {one.backend for one in models} if sum(o.backend == backend for o in models) > 1}
        able = [
            one
            for one in models
            if one.vram_bytes > 0
            and one.backend in crowd
            and one.backend not in loading
            and now - one.loaded_at >= self.policy.fresh_s
        ]
        idle = [one for one in able if one.is_idle]
        if not idle and now - self.drained_at < self.policy.busy_again_after_s:
            return None
        victim = min(idle or able, key=lambda one: (one.used_s, one.last_used_at, one.name), default=None)
        if victim is None:
            return None
        self.unloaded_at = now
        if not victim.is_idle:
            self.drained_at = now
        why = "nobody uses it" if victim.is_idle else "all loaded models are in use, and it is the least"
        reason = f"{used:.0%} of the graphics memory is in use, the limit is {self.policy.at:.0%}; {why}"
        return Unload(victim.name, victim.backend, victim.is_idle, reason)


@dataclass(slots=True)
class _Use:
    in_flight: int = 0
    seconds: float = 0.0
    at: float = 0.0


@dataclass(slots=True)
class ModelUse:
    """How much the models of one backend are used: slot-seconds that fade with time constant `window_s`."""

    window_s: float = 600.0
    uses: dict[str, _Use] = field(default_factory=dict)
    began: dict[str, tuple[str, float]] = field(default_factory=dict)  # by call
    loaded_at: dict[str, float] = field(default_factory=dict)

    def call_began(self, call: str, model: str, now: float) -> None:
        self.began[call] = (model, now)
        self._use(model, now).in_flight += 1

    def call_ended(self, call: str, now: float) -> None:
        """Charge a call; one that is not known any more is nobody's."""
        model, began_at = self.began.pop(call, ("", now))
        if not model:
            return
        use = self._use(model, now)
        use.in_flight = max(0, use.in_flight - 1)
        use.seconds += now - began_at

    def follow(self, resident: frozenset[str], now: float) -> None:
        """Note which models are loaded now: one that was not is fresh."""
        self.loaded_at = {name: self.loaded_at.get(name, now) for name in resident}

    def of(self, model: str, now: float) -> tuple[float, float]:
        """Return slot-seconds used lately, and when it was last used (never: when it was loaded)."""
        use = self.uses.get(model)
        if use is None:
            return 0.0, self.loaded_at.get(model, -math.inf)
        running = sum(now - at for name, at in self.began.values() if name == model)
        return use.seconds * math.exp(-max(0.0, now - use.at) / self.window_s) + running, now if use.in_flight else use.at

    def _use(self, model: str, now: float) -> _Use:
        use = self.uses.setdefault(model, _Use(at=now))
        use.seconds *= math.exp(-max(0.0, now - use.at) / self.window_s)
        use.at = now
        return use
