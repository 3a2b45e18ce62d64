"""Keeps who has had how much of the slots, and decides which class has had too little. Knows no slots and no queue.

Slot-seconds of agents and of classes fade with a time constant: what was used a few minutes ago is forgiven.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

NOTHING_S = 0.001  # less than this is as good as none


@dataclass(slots=True)
class _Decayed:
    """A sum whose parts fade with time constant `window_s`."""

    amount: float = 0.0
    at: float = 0.0

    def add(self, amount: float, now: float, window_s: float) -> None:
        self.amount = self.value(now, window_s) + amount
        self.at = now

    def value(self, now: float, window_s: float) -> float:
        return self.amount * math.exp(-max(now - self.at, 0.0) / window_s) if self.amount else 0.0


class Shares:
    """The slot-seconds of agents and classes. `window_s`: the time constant with which they fade."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._of_agent: dict[str, _Decayed] = {}
        self._of_class: dict[str, _Decayed] = {}

    def charge(self, agent: str, agent_class: str, seconds: float, now: float) -> None:
        """Somebody has used a slot for so long."""
        self._of_agent.setdefault(agent, _Decayed()).add(seconds, now, self._window_s)
        self._of_class.setdefault(agent_class, _Decayed()).add(seconds, now, self._window_s)

    def used_s(self, agent: str, now: float) -> float:
        """Return the slot-seconds of an agent that count against it now."""
        used = self._of_agent.get(agent)
        return used.value(now, self._window_s) if used is not None else 0.0

    def below(self, floor: float, candidates: Collection[str], running_s: Iterable[tuple[str, float]], now: float) -> str | None:
        """Return the class that has had least, if it is below the floor; `running_s`: what running calls will be charged for.

        Of more candidates than floors fit into one, none has a right to more than an equal part.
        """
        if not candidates:
            return None
        used_s = {name: used.value(now, self._window_s) for name, used in self._of_class.items()}
        for name, seconds in running_s:
            used_s[name] = used_s.get(name, 0.0) + seconds
        total_s = sum(used_s.values())
        if total_s <= 0.0:
            return None
        share, name = min((used_s.get(name, 0.0) / total_s, name) for name in candidates)
        return name if share < min(floor, 1.0 / len(candidates)) else None

    def forget(self, agents: Iterable[str]) -> None:
        """These will not come back; guests' names must not pile up."""
        for agent in agents:
            self._of_agent.pop(agent, None)

    def has_used_nothing(self, agent: str, now: float) -> bool:
        """Whether an agent's use has faded, so that it is as good as new."""
        return self.used_s(agent, now) < NOTHING_S
