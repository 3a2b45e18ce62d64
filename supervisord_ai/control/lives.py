"""Counts what agents went through since the daemon started, for Prometheus. Of a class, not of each: names come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.events import AgentEnded, AgentStarted, Event

UNKNOWN = "other"  # the class of an agent that was never seen to start


@dataclass(frozen=True, slots=True)
class LivesView:
    """Starts, restarts (starts of one that had ended before) by class, ends by (class, verdict)."""

    starts: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Lives:
    """Counts events. `tell` is its only input."""

    def __init__(self) -> None:
        self._class_of: dict[str, str] = {}
        self._starts: Counter[str] = Counter()
        self._restarts: Counter[str] = Counter()
        self._ends: Counter[tuple[str, str]] = Counter()
        self._ended: set[str] = set()

    def __repr__(self) -> str:
        return f"<Lives {sum(self._starts.values())} began, {sum(self._ends.values())} ended>"

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended."""
        match event:
            case AgentStarted(agent=agent, agent_class=agent_class, is_adopted=is_adopted):
                self._class_of[agent] = agent_class
                if not is_adopted:
                    self._starts[agent_class] += 1
                    self._restarts[agent_class] += agent in self._ended
            case AgentEnded(agent=agent, verdict=verdict):
                self._ended.add(agent)
                self._ends[self._class_of.get(agent, UNKNOWN), kind_of(verdict)] += 1
            case _:
                pass

    def view(self) -> LivesView:
        return LivesView(dict(self._starts), dict(self._restarts), dict(self._ends))


def kind_of(verdict: str) -> str:
    """Return a verdict without what would make a series of each: `exit:3` and `stopped:<reason>` are `exit` and `stopped`."""
    head, _, _ = verdict.partition(":")
    return head if head in {"exit", "stopped"} else verdict
