"""The shapes of what control.sock answers. `openapi.json` is made from them, and the answers are these values.

Where a room's own view says it already, the view stands here as it is. Seconds are of this moment, `*_at` and `*_wall` are
seconds since 1970, sizes are bytes.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from supervisord_ai.core.cap_advice import CapAdvice
from supervisord_ai.core.samples import Psi
from supervisord_ai.gateway.view import (
    BackendView,
    CacheView,
    PriorityView,
    QueuedView,
    RepeatedView,
    ShareView,
    SpoolView,
    TierView,
    Totals,
)
from supervisord_ai.health.view import AlertView, BypassView, ComponentView, ReliefView

_CLASS = {"agent_class": "class"}


class Fault(Struct):
    """Why something was not done, in words for people."""

    error: str


class Level(Struct):
    """How much the daemon degrades its service now, 0 to 3, and why."""

    level: int
    name: str
    reason: str


class LevelPin(Struct):
    """The level its owner wants; `left_s` null: for as long as he wants."""

    level: int
    left_s: float | None


class LevelStep(Struct):
    """One level: at which pressure it is entered and left, and what it changes beside what the one below it does."""

    level: int
    name: str
    enters_at: float
    leaves_below: float | None
    changes: list[str]


class ShownLevel(Struct):
    """Everything about the level.

    `level` holds; `decided` would, without a pin and without shadow mode. `comes_down` says what brings it down, "" where nothing
    has to.
    """

    level: int
    name: str
    reason: str
    cause: str
    decided: int
    since_s: float
    pin: LevelPin | None
    is_shadow: bool
    comes_down: str
    components: tuple[ComponentView, ...]
    levels: list[LevelStep]


class Health(Struct):
    """Whether all is as it should be; `reasons` says what is not."""

    is_good: bool
    reasons: list[str]


class Healthz(Struct):
    """Health in one word: good or degraded."""

    status: str
    reasons: list[str]


class QueueSummary(Struct):
    """The backlog in figures. `mode` is what the owner said about it: open, paused, draining."""

    mode: str
    queued: int
    running: int
    by_priority: tuple[PriorityView, ...]


class ClassStates(Struct, rename=_CLASS):
    """How many agents of a class there are, and how many are in which state."""

    agent_class: str
    total: int
    states: dict[str, int]


class Attention(Struct):
    """An agent that a person should look at. `detail` is the first line of why; `command` is what to type about it."""

    agent: str
    state: str
    verdict: str | None
    detail: str
    restarts: int
    since_s: float
    command: str


class AgentsSummary(Struct):
    """The fleet in figures; those who need attention by name, the worst first."""

    total: int
    by_class: list[ClassStates]
    attention: list[Attention]


class Reliance(Struct):
    """How far something can be relied on, and why."""

    level: str
    detail: str


class PlanPart(Struct):
    """One part of the memory plan. `used_bytes` is None where nobody measures it."""

    name: str
    bytes: int
    used_bytes: int | None


class Memory(Struct):
    """The memory plan beside what is used, what the daemon itself costs, and what is given up while memory is short.

    `shed`: the agents that were stopped for it, in that order.
    """

    plan: list[PlanPart]
    total_bytes: int
    daemon_rss_bytes: int
    daemon_cpu_s: float
    relief: ReliefView | None = None
    shed: tuple[str, ...] = ()


class Gpu(Struct):
    """One graphics processor. `busy` is the share of time in which it computed, `used` the share of its memory in use."""

    name: str
    total_bytes: int | None
    used_bytes: int | None
    busy: float | None
    used: float | None


class Machine(Struct):
    """The latest sample of the machine; null is what it does not tell. Pressures are shares of the last 10 s."""

    cores: int
    busy: float | None
    runnable: float | None
    total_bytes: int | None
    available_bytes: int | None
    swap_total_bytes: int | None
    swap_used_bytes: int | None
    refaults_per_s: float | None
    cpu: Psi | None
    memory: Psi | None
    io: Psi | None
    fleet_bytes: int | None
    fleet_ooms: int | None
    fleet_limit_hits: int | None
    fleet_cpu: Psi | None
    fleet_memory: Psi | None
    gpus: list[Gpu] | None
    windows_free_bytes: int | None


class AlertsSummary(Struct):
    """How many conditions are watched, and those that hold now."""

    watched: int
    firing: list[AlertView]


class Alerts(Struct):
    """Every alert and how it stands."""

    alerts: tuple[AlertView, ...]


class Down(Struct):
    """When the last daemon on this state was last alive, and why it ended; this one began at the end of it."""

    from_wall: float
    to_wall: float
    lasted_s: float
    why: str


class Happened(Struct):
    """What went wrong, or was decided, since this daemon started: how often, and when last. `what` is in words."""

    kind: str
    count: int
    last_wall: float
    what: str


class Step(Struct):
    """What to type next, and why."""

    command: str
    why: str


class Status(Struct):
    """Everything on one screen. `down` is None on the first start."""

    version: str
    pid: int
    started_at: float
    now_wall: float
    uptime_s: float
    level: Level
    health: Health
    backends: tuple[BackendView, ...]
    queue: QueueSummary
    agents: AgentsSummary
    identity: Reliance
    guarantee: Reliance
    cache: CacheView
    spool: SpoolView
    memory: Memory
    bypasses: tuple[BypassView, ...]
    alerts: AlertsSummary
    machine: Machine | None
    totals: Totals
    down: Down | None
    happened: list[Happened]
    next: list[Step]


class Agent(Struct, rename=_CLASS):
    """One agent as it is now. Of an external one, whose process is not ours, much is null."""

    name: str
    agent_class: str
    state: str
    generation: int
    pid: int | None
    since_s: float | None
    restarts: int
    verdict: str | None
    detail: str
    memory_bytes: int | None
    peak_bytes: int | None
    cap_bytes: int | None
    guarantee: str
    log_path: str
    status: str
    is_outdated: bool
    last_peak_bytes: int | None
    next_start_s: float | None
    excess_bytes: int | None


class ShownAgent(Agent):
    """One agent with what the config says of it, and its last lines before its last end."""

    last_lines: tuple[str, ...]
    command: tuple[str, ...] | str
    cwd: str | None
    digest: str
    priority: int
    restart: str


class Agents(Struct):
    """Every agent of the roster, in its order."""

    agents: list[Agent]


class Caps(Struct):
    """What caps to give, from what agents needed on the last `days`; `enforce` says whether the ones of now bind."""

    days: int
    enforce: str
    caps: tuple[CapAdvice, ...]


class Environment(Struct):
    """What an external agent is to be given by whoever starts it: its token above all."""

    name: str
    environment: dict[str, str]


class Wrapped(Struct):
    """What a process does before it becomes the command of `exec`: take these limits and variables. It is in its cage already."""

    name: str
    agent_class: str
    generation: int
    cap_bytes: int
    guarantee: str
    environment: dict[str, str]
    rlimits: dict[str, int]


class Cache(Struct):
    """The cache of answers: its tiers and sums, to whom it was good, and what is asked again and again."""

    hits: int
    misses: int
    stored: int
    l1: TierView
    l2: TierView
    l3: TierView
    stale: int
    saved_s: float
    by_class: tuple[ShareView, ...]
    by_model: tuple[ShareView, ...]
    repeated: tuple[RepeatedView, ...]
    not_shared: dict[str, int]
    scope: str
    ttl_s: float
    ttl_factor: float
    allow_stale: bool
    advice: str


class Active(Struct):
    """A request that holds a slot. `tokens` counts the lines of its answer so far, None where it is not streamed by lines."""

    backend: str
    id: str
    agent: str
    model: str | None
    path: str
    since_s: float
    priority: int
    attempt: int
    tokens: int | None


class Queue(QueueSummary):
    """The backlog: who waits, in the order they would be started now and at most as many as were asked for, and who runs."""

    waiting: tuple[QueuedView, ...]
    active: list[Active]


class Event(Struct):
    """One line of the journal of events. `seq` only grows."""

    seq: int
    at_wall: float
    kind: str
    agent: str | None
    request_id: str | None
    detail: dict[str, Any]


class Journal(Struct):
    """Events, oldest first."""

    events: list[Event]


class Explained(Struct, omit_defaults=True):
    """Where a request stands and why it waits, or how it ended."""

    id: str
    state: str
    attempt: int
    agent: str | None = None
    path: str | None = None
    model: str | None = None
    priority: int | None = None
    waited_s: float | None = None
    position: int | None = None
    ahead: int | None = None
    reason: str | None = None
    waits_for: str | None = None
    estimate_s: float | None = None
    start_within_s: float | None = None
