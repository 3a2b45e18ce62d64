"""Which fault comes when, from a seed. Pure: a plan is a list, and any part of it is a plan too."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

DAY_S = 86_400.0


class Kind(StrEnum):
    """What can go wrong. The comment says what `size` means for it."""

    KILL = "kill -9"
    POWER_CUT = "power cut"  # which part of the unsynced log survived, 0..1
    STOP = "stopped and started"
    ENGINE_CRASH = "engine crashes"  # seconds until somebody listens again
    ENGINE_HANG = "engine hangs"  # seconds until it answers again
    ENGINE_REFUSES = "engine answers 503"  # so many calls in a row
    CUT_STREAMS = "streams are cut"  # so many calls in a row
    STALL = "a stream stalls"
    DEAD_RUNNER = "a runner dies"
    UNLOADED = "the models are unloaded"
    AGENT_CRASH = "agents crash together"  # so many
    AGENT_OOM = "agents die of their caps"  # so many
    FLOOD = "an agent floods"  # so many requests at once
    LEAVERS = "callers leave"  # so many at once
    SPIKE = "everybody asks at once"
    CLOCK_STEP = "the wall clock steps"  # seconds
    CACHE_DAMAGED = "the cache file is damaged, then a kill"
    RELOAD = "the roster changes"


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
    Kind.KILL: (4, 0, 0),
    Kind.POWER_CUT: (3, 0, 1),
    Kind.STOP: (2, 0, 0),
    Kind.ENGINE_CRASH: (3, 1, 120),
    Kind.ENGINE_HANG: (2, 5, 90),
    Kind.ENGINE_REFUSES: (3, 1, 8),
    Kind.CUT_STREAMS: (3, 1, 4),
    Kind.STALL: (1, 0, 0),
    Kind.DEAD_RUNNER: (2, 1, 3),
    Kind.UNLOADED: (2, 0, 0),
    Kind.AGENT_CRASH: (4, 1, 131),
    Kind.AGENT_OOM: (2, 1, 5),
    Kind.FLOOD: (4, 20, 90),
    Kind.LEAVERS: (4, 5, 40),
    Kind.SPIKE: (2, 0, 0),
    Kind.CLOCK_STEP: (2, -3600, 3600),
    Kind.CACHE_DAMAGED: (1, 0, 0),
    Kind.RELOAD: (2, 0, 0),
}


def draw(seed: int, span_s: float, every_s: float) -> tuple[Fault, ...]:
    """Return the faults of a run of `span_s` seconds, one in `every_s` on average."""
    rng = random.Random(f"plan {seed}")
    return tuple(_drawn(rng, span_s, every_s))


def _drawn(rng: random.Random, span_s: float, every_s: float) -> Iterator[Fault]:
    kinds = list(_MENU)
    weights = [_MENU[kind][0] for kind in kinds]
    at_s, number = 120.0, 0  # the fleet comes up in peace once
    while (at_s := at_s + rng.expovariate(1 / every_s)) < span_s - 600:
        (kind,) = rng.choices(kinds, weights)
        _, low, high = _MENU[kind]
        yield Fault(number, at_s, kind, round(rng.uniform(low, high), 2))
        number += 1


def smaller(faults: Sequence[Fault], parts: int) -> Iterator[tuple[Fault, ...]]:
    """Yield the plan without each of `parts` slices in turn: the steps of delta debugging (Zeller, 2002)."""
    size = max(1, -(-len(faults) // parts))
    for begin in range(0, len(faults), size):
        yield tuple(faults[:begin]) + tuple(faults[begin + size :])
