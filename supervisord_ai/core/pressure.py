"""Decides how much each part of the machine is pressed, from one sample. Pressure is not use: 0 means that nobody waits, 1 that a
promise breaks. Knows nothing of levels.

    queue    the wait of one who came now, at the 90th percentile, over the time it has to start
    memory   the distance to the floor: MemAvailable against `memory.reserve`, by the points below
    cpu      how much of what was wanted was not given: 1 - cores / runnable, without the threads of engines; at most PSI's `some`
             of the fleet's cgroup, else of the machine, where the kernel has it

Why PSI is only a bound on cpu: `some` is the share of time in which anybody waits at all. Eleven processes that start on ten
cores reach 1 of it, and none of them notices. Busy slots are no pressure, they are what the machine is for; nor is graphics
memory: full of models is how it should be, and what is too full is unloaded (`gpu.unload_at`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from supervisord_ai.core.roster import MB
from supervisord_ai.core.samples import Load, Machine, Sample

# MemAvailable in reserves -> pressure, linear between: three reserves are plenty, at half of one the kernel is about to act.
MEMORY_POINTS = ((3.0, 0.0), (2.0, 0.6), (1.0, 0.8), (0.5, 0.95), (0.0, 1.0))


class Component(StrEnum):
    """What can be pressed; also the `cause` of a level."""

    QUEUE = "queue"
    MEMORY = "memory"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Pressed:
    """One component. `value` is None where it cannot be known now; `why` are its figures in words."""

    value: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Pressure:
    """All components at one instant."""

    queue: Pressed
    memory: Pressed
    cpu: Pressed

    def __iter__(self) -> Iterator[tuple[Component, Pressed]]:
        return iter(((Component.QUEUE, self.queue), (Component.MEMORY, self.memory), (Component.CPU, self.cpu)))


def pressure_of(sample: Sample, *, reserve_bytes: int) -> Pressure:
    """Return how much each component is pressed."""
    machine = sample.machine
    return Pressure(_queue(sample.load), memory_pressure(machine, reserve_bytes), _cpu(machine))


def _queue(load: Load) -> Pressed:
    if load.wait_share is None:
        return Pressed(None, "the wait is not known")
    waiting = f"{load.queued} waiting" if load.queued else "nobody waits"
    if not load.queued:
        return Pressed(0.0, waiting)
    about = f", about {load.wait_s:.0f} s for one who comes now" if load.wait_s is not None else ", nothing can be estimated"
    return Pressed(_share(load.wait_share), f"{waiting}{about}: {load.wait_share:.0%} of the time there is")


def memory_pressure(machine: Machine, reserve_bytes: int) -> Pressed:
    """Return the pressure on memory. Without a reserve there is no floor to come near to."""
    if machine.available_bytes is None:
        return Pressed(None, "free memory is not known")
    free = f"{machine.available_bytes // MB:,} MB available"
    if reserve_bytes <= 0:
        return Pressed(0.0, f"{free}, no reserve")
    reserves = machine.available_bytes / reserve_bytes
    return Pressed(_between(reserves), f"{free}, {reserves:.1f} times the reserve of {reserve_bytes // MB:,} MB")


def _between(reserves: float) -> float:
    # The last of them is nothing at all, and nobody has less.
    (more, low), (less, high) = next(pair for pair in pairwise(MEMORY_POINTS) if reserves >= pair[1][0])
    return max(low, high - (high - low) * (reserves - less) / (more - less))


def _cpu(machine: Machine) -> Pressed:
    psi = machine.fleet_cpu if machine.fleet_cpu is not None else machine.cpu
    if machine.runnable is None:
        if psi is None:
            return Pressed(None, "who waits for a core is not known")
        return Pressed(_share(psi.some), f"somebody waits for a core {psi.some:.0%} of the time")
    not_given = max(0.0, 1 - machine.cores / machine.runnable) if machine.runnable > 0 else 0.0
    why = f"{machine.runnable:.0f} want one of {machine.cores} cores"
    if psi is None:
        return Pressed(_share(not_given), why)
    whom = "an agent" if machine.fleet_cpu is not None else "somebody"
    return Pressed(_share(min(not_given, psi.some)), f"{why}, {whom} waits {psi.some:.0%} of the time")


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
