"""Estimates how long a call holds a slot and when a waiting one will start. Knows only what calls took so far and who waits.

The mean of each kind of call (its model, embedding or not) is exponential over its last calls, because a model's speed changes
with its load and its prompts, and an hour-old figure would lie. A start is forecast by playing the order of
`core/scheduler.py` forward with these means: heads by key, an agent's next turn beginning when its last one started, rates and
a model's own slots kept. Left out, because nobody knows them: requests that come later and overtake, loads, the shares within
a band.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FIRST_GUESS_S = 5.0  # a 3B model, a hundred tokens, a small GPU
SMOOTHING = 0.2  # the last ten calls carry nine tenths of the mean
RETRY_AFTER_MAX_S = 60.0  # clients ignore more
STEPS_MAX = 2000  # of one forecast, about 4 ms; what lies beyond is reckoned from the pace so far, as is more of one line
OWN_TURNS, OWN_TURNS_MIN = 4, 20  # for a newcomer: so many times its fair part of the steps is looked at of each line


class ServiceTimes:
    """How long calls of each kind hold a slot, in seconds."""

    def __init__(self) -> None:
        self._mean_s: dict[tuple[str | None, bool], float] = {}
        self._overall_s: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether any call has ended well yet: before that every figure here is a guess, and nobody is refused on a guess."""
        return self._overall_s is not None

    def note(self, model: str | None, took_s: float, *, is_embedding: bool = False) -> None:
        """Learn from a call that ended well."""
        kind = (model, is_embedding)
        self._mean_s[kind] = _blend(self._mean_s.get(kind), took_s)
        self._overall_s = _blend(self._overall_s, took_s)

    def of(self, model: str | None, *, is_embedding: bool = False) -> float:
        """Return the expected seconds of one call of this kind."""
        known = self._mean_s.get((model, is_embedding), self._overall_s)
        return FIRST_GUESS_S if known is None else known

    @property
    def longest_s(self) -> float:
        """The expected seconds of the slowest kind."""
        return max(self._mean_s.values(), default=FIRST_GUESS_S)

    def wait_s(self, ahead: int, slots: int) -> float:
        """Return the expected wait behind `ahead` calls of any kind that share `slots`."""
        mean_s = FIRST_GUESS_S if self._overall_s is None else self._overall_s
        return ahead * mean_s / max(slots, 1)


class Waits(Protocol):
    """What a forecast needs of a waiting request."""

    @property
    def id(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def arrived_at(self) -> float: ...
    @property
    def not_before(self) -> float: ...
    @property
    def model(self) -> str | None: ...
    @property
    def is_embedding(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Line:
    """The waiting requests of one agent, first first, as (key, sequence, request); its next turn begins at `turn_at`."""

    turn_at: float
    waiting: Sequence[tuple[float, int, Waits]]


@dataclass(frozen=True, slots=True)
class Lanes:
    """The slots: when each comes free, and the same for models that have fewer slots of their own."""

    free_at: tuple[float, ...]
    of_model: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a request will start if nothing else comes, and how many start before it."""

    starts_at: float
    ahead: int


def forecast(
    mine: Waits,
    lines: Iterable[Line],
    lanes: Lanes,
    service: ServiceTimes,
    *,
    now: float,
    until: float = math.inf,
) -> Forecast:
    """Return when `mine`, which stands in one of the lines, starts. What starts after `until` is not looked at closely."""
    play = _Play(lines, lanes, service, now)
    ahead = 0
    while (begun := play.next()) is not None:
        ticket, starts_at = begun
        if ticket.id == mine.id:
            return Forecast(starts_at, ahead)
        ahead += 1
        if starts_at > until or ahead >= STEPS_MAX:
            break
    return play.beyond(mine, ahead)


def newcomers_start(
    priorities: Iterable[int], lines: Iterable[Line], lanes: Lanes, service: ServiceTimes, *, now: float, level_s: float
) -> dict[int, float]:
    """Return when a request of each priority would start that came now, from an agent that has nothing waiting.

    It starts before whatever has a later key, as in `core/scheduler.py`: behind a flooder it waits for one turn only.
    """
    lines = list(lines)
    per_line = max(OWN_TURNS_MIN, OWN_TURNS * STEPS_MAX // max(len(lines), 1))
    play = _Play(lines, lanes, service, now, per_line=per_line)
    waiting = sorted((now + priority * level_s, priority) for priority in set(priorities))
    starts: dict[int, float] = {}
    steps = 0
    while waiting and steps < STEPS_MAX and (begun := play.next()) is not None:
        steps += 1
        while waiting and waiting[0][0] < play.key:
            starts[waiting.pop(0)[1]] = begun[1]
    return starts | dict.fromkeys((priority for _, priority in waiting), play.end(steps))


class _Turns:
    """One agent's line while it is played: those who may start, by key; `version` tells its current head from older ones."""

    __slots__ = ("due", "turn_at", "version")

    def __init__(self, turn_at: float, due: list[tuple[float, int, Waits]]) -> None:
        self.turn_at = turn_at
        self.due = due  # a heap
        self.version = 0


class _Play:
    """The order of the scheduler, played forward."""

    def __init__(
        self, lines: Iterable[Line], lanes: Lanes, service: ServiceTimes, now: float, *, per_line: int = STEPS_MAX
    ) -> None:
        self._service = service
        self._now = self._at = now
        self.key = -math.inf  # of the one that began last
        self._lanes = sorted(lanes.free_at)
        self._of_model = {model: sorted(free_at) for model, free_at in lanes.of_model.items()}
        self._left = 0
        self._agents: list[_Turns] = []
        self._heads: list[tuple[float, int, int]] = []  # (key of its turn, agent, version)
        self._later: list[tuple[float, int, int, tuple[float, int, Waits]]] = []  # (when, agent, sequence, entry)
        for agent, line in enumerate(lines):
            self._left += len(line.waiting)
            within = line.waiting[:per_line]
            self._agents.append(_Turns(line.turn_at, [entry for entry in within if entry[2].not_before <= now]))
            self._later += [(entry[2].not_before, agent, entry[1], entry) for entry in within if entry[2].not_before > now]
            self._line_up(agent)
        heapq.heapify(self._later)

    def next(self) -> tuple[Waits, float] | None:
        """Return who starts next and when; None when nobody is left."""
        at = max(self._at, self._lanes[0])
        while self._heads or self._later:
            if not self._heads:
                at = max(at, self._later[0][0])
            while self._later and self._later[0][0] <= at:
                _, agent, _, entry = heapq.heappop(self._later)
                heapq.heappush(self._agents[agent].due, entry)
                self._line_up(agent)
            key, agent, version = heapq.heappop(self._heads)
            turns = self._agents[agent]
            if version != turns.version:
                continue
            entry = heapq.heappop(turns.due)
            ticket = entry[2]
            own = self._of_model.get(ticket.model) if ticket.model is not None else None
            if own is not None and own[0] > at:  # its model is busy: others of its agent may go first
                heapq.heappush(self._later, (own[0], agent, entry[1], entry))
                self._line_up(agent)
                continue
            ends_at = at + self._service.of(ticket.model, is_embedding=ticket.is_embedding)
            heapq.heapreplace(self._lanes, ends_at)
            if own is not None:
                heapq.heapreplace(own, ends_at)
            self._at = turns.turn_at = at
            self.key = key
            self._left -= 1
            self._line_up(agent)
            return ticket, at
        return None

    def beyond(self, mine: Waits, ahead: int) -> Forecast:
        """Reckon the rest by the pace of what was looked at."""
        return Forecast(max(self._reckoned(ahead), mine.not_before), ahead + max(self._left - 1, 0))

    def end(self, steps: int) -> float:
        """When a slot comes free after everybody; what was not played is reckoned by the pace."""
        return max(self._reckoned(steps) if self._left else self._at, self._lanes[0])

    def _reckoned(self, steps: int) -> float:
        pace_s = (self._at - self._now) / max(steps, 1)
        return self._at + self._left * pace_s

    def _line_up(self, agent: int) -> None:
        turns = self._agents[agent]
        turns.version += 1
        if turns.due:
            key, _, ticket = turns.due[0]
            # The key of its arrival, or of the beginning of its agent's turn if that was later.
            heapq.heappush(self._heads, (key + max(0.0, turns.turn_at - ticket.arrived_at), agent, turns.version))


def retry_after(wait_s: float) -> float:
    """Return whole seconds for `Retry-After`: honest, at least 1, at most what clients heed."""
    return float(min(RETRY_AFTER_MAX_S, max(1, math.ceil(wait_s))))


def _blend(old_s: float | None, new_s: float) -> float:
    return new_s if old_s is None else old_s + SMOOTHING * (new_s - old_s)
