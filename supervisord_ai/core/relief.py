"""Decides what is given up when memory runs short, in which order, and when it is given back. Knows no agents and no cache.

    1 starts    no new batch of agents
    2 cache     the answers kept in memory are dropped; the file has them too
    3 shed      agents that are not critical end, a few at a time (core/shedding.py says who)
    4 admit     only urgent requests are let in: nobody is left to shed

What is never given up is Ollama: without it nobody is answered, and every request in it would be lost.

Short of memory is: less than `reserve` is available; or less than three times that while the machine thrashes (pages come back
that had just been given up, or tasks wait for memory); or the fleet runs into its own limit. One step every `step_every_s`, so
that each has time to work; below half of `reserve` all of them at once, still in their order. Calm is more than
`calm_ratio` times `reserve` and no thrashing. After `calm_s` of it everything comes back in the reverse order, one agent every
`restore_every_s`; in between nothing moves, and whatever is short again starts the calm anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ReliefPolicy:
    """How soon and how far. `reserve_bytes` is [memory] `reserve`; 0 turns all of it off."""

    reserve_bytes: int
    step_every_s: float = 2.0
    urgent_ratio: float = 0.5
    target_ratio: float = 1.1  # so much is shed for: to land just on the floor would be to stay short
    calm_ratio: float = 1.5
    calm_s: float = 60.0
    restore_every_s: float = 5.0
    room_ratio: float = 1.25  # an agent comes back only where so much is left with it
    thrash_below_ratio: float = 3.0
    thrash_refaulted_per_s: float = 20e6  # bytes read back that had just been given up
    thrash_waiting: float = 0.10  # of the last 10 s, all tasks waited for memory (PSI full)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory at one instant. None: this machine does not tell. `waiting` is PSI's `full`; `fleet_limit_hits` counts up."""

    available_bytes: int
    refaulted_per_s: float | None = None  # bytes
    waiting: float | None = None
    fleet_limit_hits: int | None = None


class Step(IntEnum):
    """How much is given up."""

    NOTHING = 0
    STARTS = 1
    CACHE = 2
    SHED = 3
    ADMIT = 4


@dataclass(frozen=True, slots=True)
class PauseStarts:
    """Begin no new batch of agents."""

    word: ClassVar[str] = "starts-paused"


@dataclass(frozen=True, slots=True)
class ResumeStarts:
    """Batches may begin again."""

    word: ClassVar[str] = "starts-resumed"


@dataclass(frozen=True, slots=True)
class DropCache:
    """Drop the answers that are kept in memory."""

    word: ClassVar[str] = "cache-dropped"


@dataclass(frozen=True, slots=True)
class ShedAgents:
    """End agents that are not critical until so much comes back, at least one."""

    word: ClassVar[str] = "agents-shed"
    need_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreAgent:
    """Start the agent again that was shed last, if it takes no more than this."""

    word: ClassVar[str] = "agent-restored"
    room_bytes: int


@dataclass(frozen=True, slots=True)
class AdmitUrgent:
    """Let only urgent requests in."""

    word: ClassVar[str] = "only-urgent"


@dataclass(frozen=True, slots=True)
class AdmitAll:
    """Let all requests in again."""

    word: ClassVar[str] = "all-admitted"


Deed = PauseStarts | ResumeStarts | DropCache | ShedAgents | RestoreAgent | AdmitUrgent | AdmitAll


@dataclass(frozen=True, slots=True)
class FleetRoom:
    """What the fleet can still give: agents that may be shed, agents that are ending because they were, agents that are down."""

    sheddable: int = 0
    ending: int = 0
    shed: int = 0


@dataclass(slots=True)
class Relief:
    """Where the machine stands. One writer: whoever calls `judge`, once for each reading."""

    policy: ReliefPolicy
    step: Step = Step.NOTHING
    reason: str = ""
    moved_at: float = float("-inf")
    calm_since: float | None = None
    limit_hits: int | None = None

    def judge(self, reading: MemoryReading, fleet: FleetRoom, now: float) -> list[Deed]:
        """Return what is to be done now, in this order."""
        short = self._why_short(reading)
        if short:
            self.reason, self.calm_since = short, None
            return self._give_up(reading, fleet, now)
        if self.step is Step.NOTHING:
            return []
        if not self._is_calm(reading):
            self.calm_since = None
            return []
        if self.calm_since is None:
            self.calm_since = now
        if now - self.calm_since < self.policy.calm_s or now - self.moved_at < self.policy.restore_every_s:
            return []
        return self._give_back(reading, fleet, now)

    def _give_up(self, reading: MemoryReading, fleet: FleetRoom, now: float) -> list[Deed]:
        is_urgent = reading.available_bytes < self.policy.reserve_bytes * self.policy.urgent_ratio
        if not is_urgent and now - self.moved_at < self.policy.step_every_s:
            return []
        deeds: list[Deed] = []
        if self.step < Step.STARTS:
            deeds.append(self._take(Step.STARTS, now, PauseStarts()))
            if not is_urgent:
                return deeds
        if self.step < Step.CACHE:
            deeds.append(self._take(Step.CACHE, now, DropCache()))
            if not is_urgent:
                return deeds
        if self.step >= Step.SHED and now - self.moved_at < self.policy.step_every_s:
            return deeds  # who was told a moment ago is still ending
        if fleet.sheddable:
            need = round(self.policy.reserve_bytes * self.policy.target_ratio) - reading.available_bytes
            # Thrashing, or the fleet at its own limit: there is no number to reach, so one at a time.
            deeds.append(self._take(max(self.step, Step.SHED), now, ShedAgents(max(need, 1))))
        elif not fleet.ending and self.step < Step.ADMIT:
            deeds.append(self._take(Step.ADMIT, now, AdmitUrgent()))
        return deeds

    def _give_back(self, reading: MemoryReading, fleet: FleetRoom, now: float) -> list[Deed]:
        if self.step is Step.ADMIT:
            return [self._take(Step.SHED, now, AdmitAll())]
        if self.step is Step.SHED and fleet.shed:
            room = reading.available_bytes - round(self.policy.reserve_bytes * self.policy.room_ratio)
            return [self._take(Step.SHED, now, RestoreAgent(max(room, 0)))]
        deed = self._take(Step.NOTHING, now, ResumeStarts())
        self.reason, self.calm_since = "", None
        return [deed]

    def _take(self, step: Step, now: float, deed: Deed) -> Deed:
        self.step, self.moved_at = step, now
        return deed

    def _why_short(self, reading: MemoryReading) -> str:
        """Say why memory is short; "" when it is not."""
        policy, available = self.policy, reading.available_bytes
        hits, self.limit_hits = self.limit_hits, reading.fleet_limit_hits
        if not policy.reserve_bytes:
            return ""
        if available < policy.reserve_bytes:
            return f"{available // 10**6} MB available, the reserve is {policy.reserve_bytes // 10**6} MB"
        if hits is not None and reading.fleet_limit_hits is not None and reading.fleet_limit_hits > hits:
            return "the fleet runs into its own memory limit"
        return self._why_thrashing(reading)

    def _why_thrashing(self, reading: MemoryReading) -> str:
        policy = self.policy
        if reading.available_bytes >= policy.reserve_bytes * policy.thrash_below_ratio:
            return ""
        if reading.refaulted_per_s is not None and reading.refaulted_per_s > policy.thrash_refaulted_per_s:
            return f"{reading.refaulted_per_s / 10**6:.0f} MB a second come back that had just been given up"
        if reading.waiting is not None and reading.waiting > policy.thrash_waiting:
            return f"for {reading.waiting:.0%} of the last 10 s everybody waited for memory"
        return ""

    def _is_calm(self, reading: MemoryReading) -> bool:
        enough = reading.available_bytes >= self.policy.reserve_bytes * self.policy.calm_ratio
        return enough and not self._why_thrashing(reading)
