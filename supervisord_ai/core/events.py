"""What rooms tell each other. Frozen facts in the past tense; `rooms.py` carries them from room to room.

Sibling rooms (gateway, agents, health) never import each other: each has `tell(event)` and acts on what it knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.effects import Level
from supervisord_ai.core.relief import Deed


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """A generation of an agent runs, caged, and will exec (or has). From now on its processes are this agent.

    `start_ticks` is field 22 of /proc/PID/stat. `cgroup` is the path as /proc/PID/cgroup shows it for the controller that
    proves identity, None where there are no cgroups; `run_tag` is the value of AI_SUPERVISOR_RUN in its environment.
    """

    agent: str
    agent_class: str
    generation: int
    pid: int
    start_ticks: int
    cgroup: str | None
    run_tag: str
    uid: int
    own_uid: bool  # no other agent and no owner has this uid
    is_adopted: bool = False  # by an earlier supervisor: it has long been running


@dataclass(frozen=True, slots=True)
class AgentReady:
    agent: str
    generation: int


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """Every process of that generation is gone. Its queued requests without a key are cancelled, its connections are leavers."""

    agent: str
    generation: int
    verdict: str
    peak_bytes: int | None = None  # of its memory; None where nobody counts
    cap_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AgentAsked:
    """The gateway saw a request of this agent (readiness `request`)."""

    agent: str
    generation: int


@dataclass(frozen=True, slots=True)
class GatewayRefused:
    """The gateway refused a request of this agent (429, 503), or an answer to it ended as an error of ours."""

    agent: str
    generation: int


@dataclass(frozen=True, slots=True)
class ChildKilled:
    """The OOM killer took processes of this agent, and the agent lives on."""

    agent: str
    generation: int
    kills: int


@dataclass(frozen=True, slots=True)
class AgentWouldExceed:
    """This agent needs more memory than its cap, which is only observed: bound by it, the kernel would have ended it."""

    agent: str
    generation: int
    needed_bytes: int
    cap_bytes: int


@dataclass(frozen=True, slots=True)
class LevelChanged:
    """Another level holds from now on: each room does what `core.effects.effects_at` says of `after`.

    `cause` is the component that decided (`queue`, `memory`, `cpu`), or `owner` when it was pinned; `reason` says it to people.
    `at` is monotonic.
    """

    before: Level
    after: Level
    reason: str
    cause: str
    at: float


@dataclass(frozen=True, slots=True)
class AgentCalls:
    """An agent has calls under way in the gateway, waiting or running, or has none any more."""

    agent: str
    generation: int
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class RolloutMoved:
    """A rollout began, paused, turned back or came to its end (`state`, as people read it)."""

    state: str
    why: str
    rolled: int
    failed: int
    total: int


@dataclass(frozen=True, slots=True)
class ReliefDecided:
    """Memory runs short, or has come back: this is to be given up, or given back. Each room does its part."""

    deed: Deed
    reason: str
    available_bytes: int


@dataclass(frozen=True, slots=True)
class AgentShed:
    """An agent that is not critical was told to end, so that its memory comes back."""

    agent: str
    generation: int
    reason: str
    idle_s: float
    bytes: int


@dataclass(frozen=True, slots=True)
class AgentRestored:
    """A shed agent is started again."""

    agent: str


@dataclass(frozen=True, slots=True)
class AgentQuarantined:
    """An agent is not started any more, because of `reason`, until its owner releases it or its trial comes."""

    agent: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackendChanged:
    """A backend was found, or lost: `state` is ready or unreachable, `detail` says what it is or why."""

    backend: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The breaker of a backend is closed, open or half-open now."""

    backend: str
    state: str


@dataclass(frozen=True, slots=True)
class EngineRestarted:
    """A backend that hung was restarted as its owner has said."""

    backend: str


@dataclass(frozen=True, slots=True)
class SlotLost:
    """A backend has perhaps lost a slot of a model; it is proved, and healed by a reload."""

    backend: str
    model: str


@dataclass(frozen=True, slots=True)
class RequestLost:
    """An accepted request will not be answered: `why` says what became of it."""

    agent: str
    request_id: str
    why: str


@dataclass(frozen=True, slots=True)
class RequestPoisoned:
    """A request ended the supervisor or its backend again and again while it ran; it is not tried any more."""

    agent: str
    request_id: str
    why: str


@dataclass(frozen=True, slots=True)
class RequestsRecovered:
    """So many requests of the supervisor before this one are back in the backlog."""

    count: int


Event = (
    AgentStarted
    | AgentReady
    | AgentEnded
    | AgentAsked
    | AgentCalls
    | GatewayRefused
    | ChildKilled
    | AgentWouldExceed
    | LevelChanged
    | RolloutMoved
    | ReliefDecided
    | AgentShed
    | AgentRestored
    | AgentQuarantined
    | BackendChanged
    | BreakerChanged
    | EngineRestarted
    | SlotLost
    | RequestLost
    | RequestPoisoned
    | RequestsRecovered
)
