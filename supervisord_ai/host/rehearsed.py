"""The machine of a rehearsal: idle, with plenty of memory, so that nothing but what is rehearsed decides the level."""

from __future__ import annotations

from supervisord_ai.core.samples import Gpu
from supervisord_ai.host.machine import FleetState, MemoryState, Pressures, ProcessorState

PLENTY_BYTES = 1 << 40  # a reserve is a part of what there is; this is far above three of any


class RehearsedMachine:
    """The door to a machine on which nobody else works. What it does not have, it tells as None, like any other."""

    def __repr__(self) -> str:
        return "<a rehearsal's machine>"

    def memory(self) -> MemoryState | None:
        return MemoryState(PLENTY_BYTES, PLENTY_BYTES, 0, 0, None)

    def processor(self, now: float) -> ProcessorState | None:
        return ProcessorState(cores=1, busy_s=0.0, total_s=now, runnable=0)

    def pressures(self) -> Pressures | None:
        return None

    def fleet(self) -> FleetState | None:
        return None

    def gpus(self, now: float) -> tuple[Gpu, ...] | None:  # noqa: ARG002
        return None

    def windows_free_bytes(self, now: float) -> int | None:  # noqa: ARG002
        return None
