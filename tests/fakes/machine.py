"""A machine whose figures a test sets. What it was not told it does not have."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisord_ai.core.samples import Gpu
from supervisord_ai.host.machine import FleetState, MemoryState, Pressures, ProcessorState

GB = 1_000_000_000


def roomy() -> MemoryState:
    """A machine of 48 GB with most of it free."""
    return MemoryState(48 * GB, 40 * GB, 0, 0, 0)


@dataclass
class FakeMachine:
    """A `MachineDoor`. An exception in place of a reading is raised, as by a door whose file says nonsense."""

    memory_state: MemoryState | Exception | None = field(default_factory=roomy)
    processor_state: ProcessorState | Exception | None = field(default_factory=lambda: ProcessorState(8, 0.0, 0.0, 0))
    pressure: Pressures | None = None
    fleet_state: FleetState | None = None
    cards: tuple[Gpu, ...] | None = None
    windows_bytes: int | None = None

    def memory(self) -> MemoryState | None:
        if isinstance(self.memory_state, Exception):
            raise self.memory_state
        return self.memory_state

    def processor(self, now: float) -> ProcessorState | None:
        if isinstance(self.processor_state, Exception):
            raise self.processor_state
        return self.processor_state

    def pressures(self) -> Pressures | None:
        return self.pressure

    def fleet(self) -> FleetState | None:
        return self.fleet_state

    def gpus(self, now: float) -> tuple[Gpu, ...] | None:
        return self.cards

    def windows_free_bytes(self, now: float) -> int | None:
        return self.windows_bytes

