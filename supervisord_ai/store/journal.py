"""The journal of the fleet: which generation of each agent was started and how it ended, and the events people read."""

from __future__ import annotations

from collections.abc import Mapping

from supervisord_ai.store.rows import AgentRecord, EventRow

__all__ = ["AgentRecord", "EventJournal", "EventRow", "FleetJournal"]


class FleetJournal:
    """Generations, intents and verdicts, so that the next supervisor knows what the last one started."""

    def load(self) -> dict[str, AgentRecord]:
        """Return what is known of every agent, by name."""
        raise NotImplementedError

    async def next_generation(self, name: str, digest: str) -> int:
        """Return a generation number never given before for this agent; durable before it returns, so before the spawn."""
        raise NotImplementedError

    async def started(
        self, name: str, generation: int, pid: int, start_ticks: int, boot_id: str, cgroup: str | None, run_tag: str
    ) -> None:
        """Write which process this generation is; durable."""
        raise NotImplementedError

    def intent(self, name: str, generation: int, reason: str) -> None:
        """Write, with the next commit, why we are about to end it."""
        raise NotImplementedError

    async def ended(self, name: str, generation: int, verdict: str, detail: str) -> None:
        """Write how it ended; durable."""
        raise NotImplementedError


class EventJournal:
    """What happened, in order, for people and for `events`."""

    def note(self, kind: str, agent: str | None = None, request_id: str | None = None, detail: Mapping[str, object] | None = None) -> None:
        """Write one event with the next commit."""
        raise NotImplementedError

    def tail(self, count: int) -> list[EventRow]:
        """Return the last events, oldest first."""
        raise NotImplementedError
