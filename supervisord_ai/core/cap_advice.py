"""Decides what memory caps to suggest, from the highest that each agent needed on the last days. Knows nothing of groups.

A cap is shared by a class, or given to some of its agents alone, so those with one cap are judged together: the suggestion holds
for whoever of them needed most. It leaves room for what nobody saw (memory is looked at every ten seconds, and a peak may pass
between two looks), and an end at the own cap says that what was seen is not all that was needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.roster import MB, AgentSpec

GROWN = 1.05  # a new highest is worth writing down from here on
ROOM = 1.25
LEAST_ROOM_BYTES = 16 * MB
AFTER_A_KILL = 1.5
STEP_BYTES = 4 * MB


@dataclass(frozen=True, slots=True)
class Peak:
    """What one agent was seen to need, over some days. `kills` is how often it ended at its own cap."""

    agent: str
    needed_bytes: int
    days: int = 1
    kills: int = 0


@dataclass(slots=True)
class Highs:
    """What is worth writing down of what is seen: the first of a day, and what is higher by a step than what was written then."""

    written: dict[str, tuple[int, int]] = field(default_factory=dict)  # by agent: the day, and how high

    def is_worth_writing(self, agent: str, day: int, needed_bytes: int) -> bool:
        """Return whether so much would be written. What is not needs no exact count."""
        at, high = self.written.get(agent, (-1, 0))
        return at != day or needed_bytes >= high * GROWN

    def judge(self, agent: str, day: int, needed_bytes: int) -> bool:
        """Take one look and return whether it is to be written."""
        if not self.is_worth_writing(agent, day, needed_bytes):
            return False
        self.written[agent] = day, needed_bytes
        return True

    def forget(self, known: Iterable[str]) -> None:
        """Keep those of these agents alone."""
        self.written = {name: self.written[name] for name in known if name in self.written}


@dataclass(frozen=True, slots=True)
class CapAdvice:
    """What to give all agents of a class that have the same cap now.

    `of_class`: it is the class's own cap, else that of the `agents` alone. `seen` of them were ever looked at, and `highest` is
    the one that needed `needed_bytes`; `suggested_bytes` is None where nobody was.
    """

    agent_class: str
    of_class: bool
    agents: tuple[str, ...]
    seen: int
    cap_bytes: int
    highest: str
    needed_bytes: int
    kills: int
    days: int
    suggested_bytes: int | None


def advise(specs: Iterable[AgentSpec], classes: Mapping[str, int], peaks: Mapping[str, Peak]) -> tuple[CapAdvice, ...]:
    """Return one advice for each cap there is, in the order of the roster. `classes` are the caps of the classes themselves."""
    groups: dict[tuple[str, int], list[str]] = {}
    for spec in specs:
        if not spec.external:
            groups.setdefault((spec.policy.name, spec.policy.memory_bytes), []).append(spec.name)
    return tuple(
        _advice(agent_class, cap_bytes, names, peaks, of_class=classes.get(agent_class) == cap_bytes)
        for (agent_class, cap_bytes), names in groups.items()
    )


def _advice(
    agent_class: str, cap_bytes: int, names: list[str], peaks: Mapping[str, Peak], *, of_class: bool
) -> CapAdvice:
    seen = [peaks[name] for name in names if name in peaks]
    top = max(seen, key=lambda peak: peak.needed_bytes, default=None)
    kills = sum(peak.kills for peak in seen)
    return CapAdvice(
        agent_class=agent_class,
        of_class=of_class,
        agents=tuple(names),
        seen=len(seen),
        cap_bytes=cap_bytes,
        highest="" if top is None else top.agent,
        needed_bytes=0 if top is None else top.needed_bytes,
        kills=kills,
        days=max((peak.days for peak in seen), default=0),
        suggested_bytes=None if top is None else suggested(top.needed_bytes, killed_at_bytes=cap_bytes if kills else 0),
    )


def suggested(needed_bytes: int, *, killed_at_bytes: int = 0) -> int:
    """Return a cap for whoever needed so much; `killed_at_bytes` is a cap at which somebody ended, 0 for none."""
    wanted = max(needed_bytes * ROOM, needed_bytes + LEAST_ROOM_BYTES, killed_at_bytes * AFTER_A_KILL)
    return math.ceil(wanted / STEP_BYTES) * STEP_BYTES
