"""Starts agents anew that have run for their `max_age`: between two of their calls, within a rollout's budget."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping

from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.clock import Clock
from supervisord_ai.core.recycling import Aged, due
from supervisord_ai.core.verdict import MAX_AGE

logger = logging.getLogger(__name__)

AS_LONG_AS_BUSY_S = 600.0  # an agent that is never between two calls is ended in the middle of one


class Recycling:
    """Looks once a second. `is_held`: a rollout is under way, or the level holds everything up."""

    def __init__(
        self,
        *,
        agents: Mapping[str, Agent],
        group_size: int,
        clock: Clock,
        rng: random.Random,
        is_busy: Callable[[str], bool],
        is_held: Callable[[], bool],
    ) -> None:
        self._agents = agents
        self._group_size = group_size
        self._clock = clock
        self._rng = rng
        self._is_busy = is_busy
        self._is_held = is_held
        self._draws: dict[tuple[str, int], float] = {}
        self._in_hand: dict[str, int] = {}  # whose end we asked for, and the generation that is to follow

    def __repr__(self) -> str:
        return f"<recycling, in hand {list(self._in_hand)}>"

    async def look(self) -> None:
        """Start anew who is due."""
        now = self._clock.monotonic()
        agents = self._agents
        self._in_hand = {
            name: number
            for name, number in self._in_hand.items()
            if name in agents and not agents[name].is_stopped_by_owner and not _is_back(agents[name], number)
        }
        aged = [
            Aged(name, age_s, agent.spec.policy.max_age_s, self._draw(agent))
            for name, agent in agents.items()
            if agent.spec.policy.max_age_s and name not in self._in_hand and (age_s := agent.age_s(now)) is not None
        ]
        free = [one for one in aged if not self._is_busy(one.name) or one.over_s > AS_LONG_AS_BUSY_S]
        for name in due(free, in_hand=len(self._in_hand), group_size=self._group_size, is_held=self._is_held()):
            logger.info("agent %s has run for its max_age and is started anew", name)
            self._in_hand[name] = agents[name].number
            agents[name].restart(MAX_AGE)

    def _draw(self, agent: Agent) -> float:
        """The same for a whole generation, and forgotten with it."""
        key = agent.name, agent.number
        if key not in self._draws:
            self._draws = {known: draw for known, draw in self._draws.items() if known[0] != agent.name}
            self._draws[key] = self._rng.random()
        return self._draws[key]


def _is_back(agent: Agent, number: int) -> bool:
    return agent.number > number and agent.is_ready
