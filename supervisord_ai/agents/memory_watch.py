"""Looks at the memory of all agents: who would be over a cap that is only observed, and what each of them needs at most.

Where caps bind, the kernel looks (or `lifecycle.Agent.measured`, where there are no groups), and only the second is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.core.cap_advice import Highs
from supervisord_ai.core.events import AgentWouldExceed, Event
from supervisord_ai.host.cgroup import Cages

HIGHS_EVERY_S = 10.0


class PeakNotes(Protocol):
    """Where it is written what agents need; `store.peaks.PeakJournal` is the real one."""

    @property
    def today(self) -> int: ...

    def note(self, agent: str, needed_bytes: int) -> None: ...

    def killed(self, agent: str, cap_bytes: int) -> None: ...


class MemoryWatch:
    """The looks of one fleet."""

    def __init__(
        self, agents: Mapping[str, Agent], *, cages: Cages, notes: PeakNotes, tell: Callable[[Event], None]
    ) -> None:
        self._agents = agents
        self._cages = cages
        self._notes = notes
        self._tell = tell
        self._highs = Highs()

    def __repr__(self) -> str:
        return f"<memory watch of {len(self._agents)}>"

    async def look_for_excess(self) -> None:
        """Tell of everyone who would be over his cap."""
        for name, used_bytes in (await self._cages.usage()).items():
            generation = self._agents[name].generation if name in self._agents else None
            if generation is None or used_bytes <= generation.cap_bytes:
                continue
            needed_bytes = await generation.cage.needed_bytes()
            if needed_bytes is not None and generation.excess.judge(needed_bytes, generation.cap_bytes):
                self._tell(AgentWouldExceed(name, generation.number, needed_bytes, generation.cap_bytes))

    async def look_for_highs(self) -> None:
        """Write down who needs more than was written of him today."""
        for name, used_bytes in (await self._cages.usage()).items():
            generation = self._agents[name].generation if name in self._agents else None
            if generation is None or not self._highs.is_worth_writing(name, self._notes.today, used_bytes):
                continue  # what is needed is a part of what is used, and costs three times as much to know
            needed_bytes = await generation.cage.needed_bytes()
            if needed_bytes and self._highs.judge(name, self._notes.today, needed_bytes):
                self._notes.note(name, needed_bytes)
        self._highs.forget(self._agents)

    def killed(self, name: str, cap_bytes: int | None) -> None:
        """It ended at its own cap."""
        self._notes.killed(name, cap_bytes or 0)
