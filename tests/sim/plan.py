"""Which fault comes when, and when who asks how much, from a seed. Pure: a plan is a list, and any part of it is a plan too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

DAY_S = 86_400.0
FLEET_UP_S = 120.0  # the fleet comes up in peace once
TAKES_A_SLOT = 0.7
LAST_FAULT_S = 600.0  # before the end: whatever it broke is whole again by then


class Kind(StrEnum):
    """What can go wrong. The comment says what `size` means for it."""

    KILL = "kill -9"  # above TAKES_A_SLOT a call that it cuts takes its slot of the engine along
    POWER_CUT = "power cut"  # which part of the unsynced log survived, 0..1
    STOP = "stopped and started"
    LEAVE = "left and taken over (USR1)"
    ENGINE_CRASH = "engine crashes"  # seconds until somebody listens again
    ENGINE_HANG = "engine hangs"  # seconds until it answers again
    ENGINE_REFUSES = "engine answers 503"  # so many calls in a row
    CUT_STREAMS = "streams are cut"  # so many calls in a row
    STALL = "a stream stalls"
    DEAD_RUNNER = "a runner dies"
    UNLOADED = "the models are unloaded"
    SLOW_LOAD = "the models are unloaded, and loads are slow"  # seconds that one load takes
    LOST_SLOT = "a slot is lost"
    AGENT_CRASH = "agents crash together"  # so many
    AGENT_OOM = "agents die of their caps"  # so many
    CHILD_OOM = "the OOM killer takes a child of living agents"  # so many
    FLOOD = "an agent floods"  # so many requests at once
    LEAVERS = "callers leave"  # so many at once
    SLOW_READERS = "callers read slowly"  # so many at once
    HALF_CLOSE = "callers close their sending half"  # so many at once
    NONSENSE = "callers lie"  # so many requests that are none, or not theirs to ask
    SPIKE = "everybody asks at once"
    CLOCK_STEP = "the wall clock steps"  # seconds
    CACHE_DAMAGED = "the cache file is damaged, then a kill"
    DISK_FULL = "nothing can be written"  # seconds
    RELOAD = "the roster changes"  # how many of the sonnets there are from now on, as a share
    BAD_RELOAD = "a reload of a config that is wrong"
    MEMORY_SHORT = "memory is short"  # what is left, in units of the reserve
    CROWDED = "the processors are crowded"  # runnable tasks a core
    VRAM_FULL = "the graphics memory is full"  # seconds
    NO_SENSORS = "no sensor tells anything"  # seconds
    SMALL_CARD = "the models no longer fit together, and both are asked for"  # seconds
    GUESTS = "strangers ask"  # so many at once
    ROLLOUT = "another program is rolled out"
    BAD_ROLLOUT = "a program that crashes is rolled out"
    OWNER = "the owner has a say"  # which, 0..1
    WRONG = "callers ask for a model that is not there"  # so many at once


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `number` names it in a story and in `--only`."""

    number: int
    at_s: float
    kind: Kind
    size: float = 0.0

    def __str__(self) -> str:
        return f"#{self.number} {self.kind.value} ({self.size:g})"


# How often each comes, relative to the others, and what its size is drawn from.
_MENU: dict[Kind, tuple[float, float, float]] = {
    Kind.KILL: (4, 0, 1),
    Kind.POWER_CUT: (3, 0, 1),
    Kind.STOP: (1, 0, 0),
    Kind.LEAVE: (1, 0, 0),
    Kind.ENGINE_CRASH: (2, 1, 120),
    Kind.ENGINE_HANG: (2, 5, 90),
    Kind.ENGINE_REFUSES: (3, 1, 8),
    Kind.CUT_STREAMS: (3, 1, 4),
    Kind.STALL: (1, 0, 0),
    Kind.DEAD_RUNNER: (2, 1, 3),
    Kind.UNLOADED: (2, 0, 0),
    Kind.SLOW_LOAD: (1, 5, 40),
    Kind.LOST_SLOT: (2, 0, 0),
    Kind.AGENT_CRASH: (3, 1, 60),
    Kind.AGENT_OOM: (3, 1, 5),
    Kind.CHILD_OOM: (2, 1, 5),
    Kind.FLOOD: (4, 20, 90),
    Kind.LEAVERS: (4, 5, 40),
    Kind.SLOW_READERS: (3, 3, 20),
    Kind.HALF_CLOSE: (3, 3, 20),
    Kind.NONSENSE: (3, 3, 12),
    Kind.SPIKE: (2, 0, 0),
    Kind.CLOCK_STEP: (3, -3600, 3600),
    Kind.CACHE_DAMAGED: (1, 0, 0),
    Kind.DISK_FULL: (2, 2, 40),
    Kind.RELOAD: (2, 0.9, 1),
    Kind.BAD_RELOAD: (1, 0, 0),
    Kind.MEMORY_SHORT: (2, 0.3, 2.5),
    Kind.CROWDED: (2, 2, 30),
    Kind.VRAM_FULL: (1, 20, 120),
    Kind.NO_SENSORS: (1, 5, 200),
    Kind.SMALL_CARD: (2, 60, 300),
    Kind.GUESTS: (2, 2, 12),
    Kind.ROLLOUT: (1, 0, 0),
    Kind.BAD_ROLLOUT: (1, 0, 0),
    Kind.OWNER: (3, 0, 1),
    Kind.WRONG: (1, 5, 40),
}


@dataclass(frozen=True, slots=True)
class Span:
    """How a run is made up: so long at full load, then so long mostly idle; a fault in every so many seconds, on average."""

    busy_s: float
    idle_s: float = 0.0
    busy_fault_every_s: float = 121.0
    idle_fault_every_s: float = 8 * 3600.0
    burst_every_s: float = 5400.0  # while idle, somebody comes and asks a few things so often

    @property
    def all_s(self) -> float:
        return self.busy_s + self.idle_s


def year(parts: int) -> Span:
    """Return one of so many equal parts of a year: of its 14 days at full load, and of its rest."""
    return Span(14 * DAY_S / parts, 351 * DAY_S / parts)


def draw(seed: int, span: Span) -> tuple[Fault, ...]:
    """Return the faults of a run."""
    return tuple(_drawn(random.Random(f"plan {seed}"), span))


def _drawn(rng: random.Random, span: Span) -> Iterator[Fault]:
    kinds = list(_MENU)
    weights = [_MENU[kind][0] for kind in kinds]
    at_s, number = FLEET_UP_S, 0
    while True:
        every_s = span.busy_fault_every_s if at_s < span.busy_s else span.idle_fault_every_s
        at_s += rng.expovariate(1 / every_s)
        if at_s >= span.all_s - LAST_FAULT_S:
            return
        (kind,) = rng.choices(kinds, weights)
        _, low, high = _MENU[kind]
        yield Fault(number, at_s, kind, round(rng.uniform(low, high), 2))
        number += 1


def bursts(seed: int, span: Span) -> tuple[tuple[float, int], ...]:
    """Return when somebody asks during the idle part, and how many things."""
    rng = random.Random(f"bursts {seed}")
    found, at_s = [], span.busy_s
    while span.idle_s and (at_s := at_s + rng.expovariate(1 / span.burst_every_s)) < span.all_s:
        found.append((at_s, rng.randint(1, 12)))
    return tuple(found)


def smaller(faults: Sequence[Fault], parts: int) -> Iterator[tuple[Fault, ...]]:
    """Yield the plan without each of `parts` slices in turn: the steps of delta debugging (Zeller, 2002)."""
    size = max(1, -(-len(faults) // parts))
    for begin in range(0, len(faults), size):
        yield tuple(faults[:begin]) + tuple(faults[begin + size :])
