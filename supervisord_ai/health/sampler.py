"""Once a second: what the machine is like and what is asked of Ollama, as one frozen `Sample`; an hour of them in a ring.

The machine is read in a thread, since a driver or a Windows drive may take their time; while one reading hangs, samples come
without the machine. What the gateway says of itself is read on the loop, where it lives. A sensor that stops telling is None
from then on, which is said once; so is its return.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.samples import Load, Machine, Sample
from supervisord_ai.health.ring import Ring
from supervisord_ai.host.machine import FleetState, MachineDoor, MemoryState, Pressures, ProcessorState
from supervisord_ai.store.disk import RunSync

log = logging.getLogger(__name__)

EVERY_S = 1.0
HANGS_AFTER_S = 2.0

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_thread = trio.CapacityLimiter(1)  # a reading that hangs holds it: none is begun beside it


async def in_sensor_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Read in a thread of our own, which is given up where it hangs."""
    return await trio.to_thread.run_sync(fn, *args, limiter=_thread, abandon_on_cancel=True)


class Sampler:
    """Takes the samples. `load` says what is asked of Ollama; `tell` gets each sample."""

    def __init__(
        self,
        machine: MachineDoor,
        *,
        load: Callable[[], Load],
        tell: Callable[[Sample], None],
        clock: Clock,
        run_sync: RunSync = in_sensor_thread,
    ) -> None:
        self._gauge = Gauge(machine)
        self._load = load
        self._tell = tell
        self._clock = clock
        self._run_sync = run_sync
        self._was_there: dict[str, bool] = {}
        self.ring = Ring()
        self.latest: Sample | None = None

    def __repr__(self) -> str:
        return f"<Sampler {self.ring!r}>"

    async def sample(self) -> None:
        """Take one sample. For `duty.every(EVERY_S, ...)`."""
        machine: Machine | None = None
        with trio.move_on_after(HANGS_AFTER_S):
            machine = await self._run_sync(self._gauge.read, self._clock.monotonic())
        self._say_what_is_lost({"reading": True} | present(machine) if machine is not None else {"reading": False})
        now, wall = self._clock.monotonic(), self._clock.wall()
        self.latest = Sample(now, wall, machine if machine is not None else Machine(), self._load())
        self.ring.add(self.latest)
        self._tell(self.latest)

    def _say_what_is_lost(self, there: dict[str, bool]) -> None:
        for sensor, is_there in there.items():
            was_there = self._was_there.get(sensor)
            if was_there and not is_there:
                log.warning("%s is not told any more", _SENSORS[sensor])
            if is_there and was_there is False:
                log.info("%s is told again", _SENSORS[sensor])
            if is_there or was_there is not None:  # what was never there is not missed
                self._was_there[sensor] = is_there


_SENSORS = {
    "reading": "what this machine does",
    "memory": "the memory of this machine",
    "processor": "how busy the processors are",
    "pressure": "pressure (PSI)",
    "fleet": "the cgroup of the fleet",
    "gpu": "the graphics processor",
    "windows": "the free space of the Windows drive",
}


def present(machine: Machine) -> dict[str, bool]:
    """Return which sensors told something."""
    return {
        "memory": machine.available_bytes is not None,
        "processor": machine.busy is not None or machine.runnable is not None,
        "pressure": machine.cpu is not None or machine.memory is not None,
        "fleet": machine.fleet_bytes is not None,
        "gpu": machine.gpus is not None,
        "windows": machine.windows_free_bytes is not None,
    }


class Gauge:
    """Makes a `Machine` of the door's readings: counters become rates since the reading before. Lives in the sensor thread."""

    def __init__(self, door: MachineDoor) -> None:
        self._door = door
        self._at: float | None = None
        self._memory: MemoryState | None = None
        self._processor: ProcessorState | None = None
        self._fleet_at_start: FleetState | None = None

    def read(self, now: float) -> Machine:
        """Read everything. What cannot be read is None."""
        door = self._door
        machine = self._processors(_told(lambda: door.processor(now)))
        machine = self._memories(machine, _told(door.memory), now)
        machine = self._fleet(machine, _told(door.fleet))
        pressures = _told(door.pressures) or Pressures()
        self._at = now
        return replace(
            machine,
            cpu=pressures.cpu,
            memory=pressures.memory,
            io=pressures.io,
            gpus=_told(lambda: door.gpus(now)),
            windows_free_bytes=_told(lambda: door.windows_free_bytes(now)),
        )

    def _processors(self, state: ProcessorState | None) -> Machine:
        before, self._processor = self._processor, state
        if state is None:
            return Machine()
        total_s = state.total_s - before.total_s if before is not None else 0.0
        busy_s = state.busy_s - before.busy_s if before is not None else 0.0
        # iowait goes backwards now and then, proc(5): then nothing can be said of this second.
        busy = busy_s / total_s if 0 <= busy_s <= total_s and total_s > 0 else None
        return Machine(cores=state.cores, busy=busy, runnable=state.runnable)

    def _memories(self, machine: Machine, state: MemoryState | None, now: float) -> Machine:
        before, self._memory = self._memory, state
        if state is None:
            return machine
        rate = None
        if before is not None and self._at is not None and state.refaults is not None and before.refaults is not None:
            rate = max(0, state.refaults - before.refaults) / (now - self._at) if now > self._at else None
        return replace(
            machine,
            total_bytes=state.total_bytes,
            available_bytes=state.available_bytes,
            swap_total_bytes=state.swap_total_bytes,
            swap_used_bytes=state.swap_used_bytes,
            refaults_per_s=rate,
        )

    def _fleet(self, machine: Machine, state: FleetState | None) -> Machine:
        if state is None:
            return machine
        if self._fleet_at_start is None:
            self._fleet_at_start = state
        return replace(
            machine,
            fleet_bytes=state.used_bytes,
            fleet_ooms=_since(self._fleet_at_start.ooms, state.ooms),
            fleet_limit_hits=_since(self._fleet_at_start.limit_hits, state.limit_hits),
            fleet_cpu=state.pressures.cpu,
            fleet_memory=state.pressures.memory,
        )


def _told(ask: Callable[[], T | None]) -> T | None:
    """Return what a sensor tells; one whose words cannot be read tells nothing."""
    try:
        return ask()
    except (OSError, ValueError):
        return None


def _since(start: int | None, now: int | None) -> int | None:
    return max(0, now - start) if now is not None and start is not None else None
