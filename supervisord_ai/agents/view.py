"""What the fleet shows of itself: frozen values for status, tests and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.agent_state import AgentState


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent as it is now. Sizes in bytes; `since_s` is how long it has been in its state."""

    name: str
    agent_class: str
    state: AgentState
    generation: int
    pid: int | None
    since_s: float
    restarts: int
    verdict: str | None  # of the last end
    detail: str
    memory_bytes: int | None
    peak_bytes: int | None
    cap_bytes: int
    guarantee: str  # hard | hard-v1 | soft-rlimit | observed
    log_path: str
    is_outdated: bool = False  # its generation was made of another spec than the roster's
    next_start_s: float | None = None  # from now; of one that rests until a known time: backoff, schedule, quarantine, its turn
    last_lines: tuple[str, ...] = ()  # of its output before the last end
    last_peak_bytes: int | None = None  # of the generation that ended last
    excess_bytes: int | None = None  # the most it needed over a cap that is only observed; None: it never did
    status: str = ""  # what the one that runs last said of itself on its notify socket


@dataclass(frozen=True, slots=True)
class FleetPulse:
    """What costs nothing to ask, for who asks every second. `shed`: who was stopped to give memory back, in that order."""

    states: Mapping[AgentState, int] = field(default_factory=dict)
    shed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetView:
    """All agents, and how far their caps can be relied on, with one line why."""

    agents: tuple[AgentView, ...]
    guarantee: str
    guarantee_detail: str
    shed: tuple[str, ...] = ()  # who was stopped to give memory back, in that order
