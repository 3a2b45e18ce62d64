"""Ends agents that are not critical when memory must come back, and starts them again when it has.

When and how much is decided elsewhere (core/relief.py, carried here as `ReliefDecided`); who is decided by core/shedding.py of
what is seen here: who runs, how long it has asked for nothing, what memory it has.

A shed agent is down at our word and comes back at our word. Its owner's word is stronger: whom he starts, stops or takes out of
the roster meanwhile is his again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.clock import Clock
from supervisord_ai.core import agent_state
from supervisord_ai.core.events import AgentRestored, AgentShed, Event
from supervisord_ai.core.relief import FleetRoom
from supervisord_ai.core.shedding import Candidate, ShedList, choose

logger = logging.getLogger(__name__)


class Shedding:
    """The one who sheds. `agents` is the fleet's own mapping; `is_busy` says whether an agent has calls under way."""

    def __init__(
        self, agents: Mapping[str, Agent], *, clock: Clock, tell: Callable[[Event], None], is_busy: Callable[[str], bool]
    ) -> None:
        self._agents = agents
        self._clock = clock
        self._tell = tell
        self._is_busy = is_busy
        self._asked_at: dict[str, float] = {}
        self._shed = ShedList()

    def __repr__(self) -> str:
        return f"<Shedding {len(self._shed)} shed>"

    @property
    def shed(self) -> tuple[str, ...]:
        """Who is down because of it, in the order in which they went."""
        self._let_go()
        return self._shed.names

    def asked(self, name: str) -> None:
        """It asked something just now, or its last call ended."""
        self._asked_at[name] = self._clock.monotonic()

    def room(self) -> FleetRoom:
        """Return what the fleet can still give."""
        self._let_go()
        alive = self._alive()
        return FleetRoom(
            sheddable=sum(1 for agent in self._agents.values() if agent.may_be_shed),
            ending=sum(alive[name] for name in self._shed.names),
            shed=len(self._shed),
        )

    def give(self, need_bytes: int, reason: str) -> None:
        """End whoever is next in order, so that this much comes back; who is still ending is counted in."""
        self._let_go()
        need_bytes -= self._shed.ending_bytes(self._alive())
        if need_bytes <= 0:
            return
        now = self._clock.monotonic()
        chosen = choose(self._candidates(now), need_bytes)
        self._shed.add(chosen)
        for one in chosen:
            agent = self._agents[one.name]
            logger.warning("agent %s is shed: %s; idle for %.0f s, %d bytes", one.name, reason, one.idle_s, one.bytes or 0)
            agent.shed(reason)
            self._tell(AgentShed(one.name, agent.number, reason, one.idle_s, one.bytes or 0))

    def give_back(self, room_bytes: int) -> None:
        """Start the agent again that went last, where there is room for it."""
        self._let_go()
        name = self._shed.next_back(room_bytes, self._alive())
        if name is not None:
            logger.info("agent %s comes back: there is memory again", name)
            self._agents[name].restore()
            self._tell(AgentRestored(name))

    def _candidates(self, now: float) -> list[Candidate]:
        found = []
        for place, (name, agent) in enumerate(self._agents.items()):
            if agent.may_be_shed:
                last = max(self._asked_at.get(name, 0.0), agent.since)
                policy = agent.spec.policy
                idle_s = 0.0 if self._is_busy(name) else now - last
                found.append(Candidate(name, policy.priority, policy.critical, idle_s, agent.memory_bytes(), place))
        return found

    def _alive(self) -> dict[str, bool]:
        return {name: agent_state.is_alive(self._agents[name].state) for name in self._shed.names}

    def _let_go(self) -> None:
        """Forget those of whom their owner has spoken meanwhile, and those who have left."""
        for name in self._shed.names:
            agent = self._agents.get(name)
            if agent is None or not agent.is_shed:
                self._shed.forget(name)
