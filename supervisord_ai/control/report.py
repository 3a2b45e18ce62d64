"""What the owner is shown, made from the views of the rooms: it judges what deserves a look, and what to type about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisord_ai.agents.view import AgentView, FleetView
from supervisord_ai.control.answers import (
    Active,
    Agent,
    AgentsSummary,
    AlertsSummary,
    Attention,
    ClassStates,
    Down,
    Gpu,
    Happened,
    Health,
    Level,
    Machine,
    Memory,
    PlanPart,
    Queue,
    QueueSummary,
    Reliance,
    ShownAgent,
    Status,
    Step,
)
from supervisord_ai.control.chronicle import QUIET_VERDICTS, Occurrence
from supervisord_ai.control.encoding import fields_of
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.downtime import Downtime
from supervisord_ai.core.identity import EXTERNAL_GENERATION
from supervisord_ai.core.memory_plan import MemoryPolicy, parts
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.core.samples import Machine as Sampled
from supervisord_ai.core.verdict import AT_OWN_CAP
from supervisord_ai.gateway.accept import AcceptView
from supervisord_ai.gateway.view import GatewayView
from supervisord_ai.health.view import HealthView

Json = dict[str, Any]

# An agent that came back is worth a look for this long.
RECENT_S = 600.0
HAPPENED_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Usage:
    """What the daemon itself costs: resident bytes, and CPU seconds since it started."""

    rss_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that one status is made of."""

    version: str
    pid: int
    started_wall: float
    now_wall: float
    fleet: FleetView
    gateway: GatewayView
    identity: AcceptView
    memory: MemoryPolicy
    usage: Usage
    health: HealthView = field(default_factory=HealthView)
    down: Downtime | None = None
    happened: Sequence[Occurrence] = ()


def status(moment: Moment) -> Status:
    """Return `GET /v1/status`."""
    fleet, gateway = moment.fleet, moment.gateway
    found = reasons(moment)
    down = moment.down
    return Status(
        version=moment.version,
        pid=moment.pid,
        started_at=moment.started_wall,
        now_wall=moment.now_wall,
        uptime_s=moment.now_wall - moment.started_wall,
        level=level(moment.health),
        health=Health(is_good=not found, reasons=found),
        backends=gateway.backends,
        queue=QueueSummary(gateway.mode, gateway.queued, gateway.running, gateway.by_priority),
        agents=AgentsSummary(
            total=len(fleet.agents),
            by_class=by_class(fleet.agents),
            attention=[
                Attention(
                    view.name, view.state.value, view.verdict, first_line(view.detail), view.restarts, view.since_s, advice(view)
                )
                for view in sorted(filter(needs_attention, fleet.agents), key=_worst_first)
            ],
        ),
        identity=Reliance(moment.identity.level, moment.identity.detail),
        guarantee=Reliance(fleet.guarantee, fleet.guarantee_detail),
        cache=gateway.cache,
        spool=gateway.spool,
        memory=Memory(
            plan(moment),
            moment.memory.total_bytes,
            moment.usage.rss_bytes,
            moment.usage.cpu_s,
            relief=moment.health.relief,
            shed=fleet.shed,
        ),
        bypasses=moment.health.bypasses,
        alerts=AlertsSummary(
            len(moment.health.alerts), [one for one in moment.health.alerts if one.state == "firing"]
        ),
        machine=None if moment.health.sample is None else machine(moment.health.sample.machine),
        totals=gateway.totals,
        down=None if down is None else Down(down.from_wall, down.to_wall, down.to_wall - down.from_wall, down.why),
        happened=[Happened(one.kind, one.count, one.last_wall, one.what) for one in moment.happened[:HAPPENED_SHOWN]],
        next=next_steps(moment),
    )


def level(health: HealthView) -> Level:
    """Return the level in one line."""
    if health.level is None:
        return Level(0, "normal", "pressure is not measured here")
    return Level(int(health.level.level), health.level.level.word, health.level.reason)


def reasons(moment: Moment) -> list[str]:
    """Return what is not as it should be; [] is good health."""
    found = []
    for one in moment.gateway.backends:
        if one.state != "ready":
            found.append(f"backend {one.name} is {one.state}" + (f": {one.detail}" if one.detail else ""))
        elif one.breaker != "closed":
            found.append(f"the breaker of backend {one.name} is {one.breaker}: its last calls failed, the queue waits")
    for past in moment.health.bypasses:
        if past.agent is not None:
            found.append(f"agent {past.agent} calls backend {past.backend} itself, past the queue")
    if moment.gateway.mode != "open":
        found.append(f"the queue is {moment.gateway.mode}")
    if moment.fleet.shed:
        found.append(f"{len(moment.fleet.shed)} stopped to give memory back: {_some(moment.fleet.shed)}")
    quarantined = [view.name for view in moment.fleet.agents if view.state is AgentState.QUARANTINED]
    if quarantined:
        found.append(f"{len(quarantined)} in quarantine: {_some(quarantined)}")
    returning = [view.name for view in moment.fleet.agents if view.state is AgentState.BACKOFF]
    if returning:
        found.append(f"{len(returning)} waiting to be started again: {_some(returning)}")
    return found


def machine(sampled: Sampled) -> Machine:
    """Return the latest sample of the machine; null is what it does not tell."""
    gpus = None if sampled.gpus is None else [Gpu(**fields_of(Gpu, one)) for one in sampled.gpus]
    return Machine(**{**fields_of(Machine, sampled), "gpus": gpus})


def next_steps(moment: Moment) -> list[Step]:
    """Return what to type about what is wrong, the most urgent first."""
    steps = []
    for one in moment.gateway.backends:
        if one.state != "ready":
            why = f"does {one.name} answer? If not: `ollama serve`, or its service"
            steps.append(Step(f"curl {_probe(one.url)}/api/version", why))
        elif one.breaker != "closed":
            why = f"{one.name} answers, and its calls fail: see its own log"
            steps.append(Step("ai-supervisor events --kind breaker", why))
    now = level(moment.health)
    if now.level >= 2:
        steps.append(Step("ai-supervisor level show", f"what is pressed, and what level {now.level} changes"))
    if moment.gateway.mode != "open":
        steps.append(Step("ai-supervisor queue resume", f"the queue is {moment.gateway.mode}"))
    past = [one.agent for one in moment.health.bypasses if one.agent is not None]
    if past:
        why = f'{past[0]} is to call OLLAMA_HOST as it was given; [isolation] mode = "nft" closes the other way'
        steps.append(Step(f"ai-supervisor agents show {past[0]}", why))
    resting = [view for view in moment.fleet.agents if view.state is AgentState.QUARANTINED]
    returning = [view for view in moment.fleet.agents if view.state is AgentState.BACKOFF]
    over = [view for view in moment.fleet.agents if needs_attention(view) and view.verdict in AT_OWN_CAP]
    if over:
        why = f"{over[0].name} went past its memory cap: a larger one, or find the leak"
        steps.append(Step("ai-supervisor config suggest", why))
    if resting:
        name = resting[0].name
        steps.append(Step(f"ai-supervisor agents logs {name}", "its last words"))
        steps.append(Step(f"ai-supervisor agents release {_pattern_of(resting)}", "once it is mended"))
    elif returning:
        one_back = returning[0]
        steps.append(Step(f"ai-supervisor agents show {one_back.name}", f"why it ended: {one_back.verdict}, and its last words"))
    exceeding = [view.name for view in moment.fleet.agents if view.excess_bytes is not None]
    if exceeding:
        why = f"{len(exceeding)} would be over their caps, which are only observed: {_some(exceeding)}"
        steps.append(Step("ai-supervisor config suggest", why))
    return steps


def advice(view: AgentView) -> str:
    """Return what to type about one agent in trouble."""
    if view.state in {AgentState.QUARANTINED, AgentState.STOPPED}:
        verb = "release" if view.state is AgentState.QUARANTINED else "start"
        return f"ai-supervisor agents {verb} {view.name}"
    return f"ai-supervisor agents show {view.name}"


def by_class(agents: Iterable[AgentView]) -> list[ClassStates]:
    """Return how many agents of each class are in each state."""
    states: dict[str, Counter[str]] = {}
    for view in agents:
        states.setdefault(view.agent_class, Counter())[view.state.value] += 1
    return [ClassStates(name, sum(counts.values()), dict(counts)) for name, counts in states.items()]


def needs_attention(view: AgentView) -> bool:
    """Tell whether a person should look at this agent: it rests in trouble, or came back from some a moment ago."""
    if view.state in {AgentState.QUARANTINED, AgentState.BACKOFF}:
        return True
    was_trouble = view.verdict is not None and not view.verdict.startswith(QUIET_VERDICTS)
    return was_trouble and (view.state is AgentState.STOPPED or view.since_s < RECENT_S)


def _worst_first(view: AgentView) -> tuple[bool, bool, float]:
    return (view.state is not AgentState.QUARANTINED, view.state is not AgentState.BACKOFF, view.since_s)


def plan(moment: Moment) -> list[PlanPart]:
    """Return the memory plan, with what is used where we know it. What the daemon holds of answers is the cache's."""
    cache = moment.gateway.cache
    held = cache.l1.bytes + moment.gateway.spool.memory_bytes
    known = {
        "agents": sum(view.memory_bytes or 0 for view in moment.fleet.agents),
        "cache": held,
        "monitoring": max(0, moment.usage.rss_bytes - held),
    }
    return [PlanPart(name, size, known.get(name)) for name, size in parts(moment.memory)]


def agent(view: AgentView) -> Agent:
    """Return one agent of `GET /v1/agents`."""
    return Agent(**fields_of(Agent, view))


def shown(view: AgentView, spec: AgentSpec | None) -> ShownAgent:
    """Return `GET /v1/agents/{name}`; `spec` is None of one that has left the roster and has not ended yet."""
    return ShownAgent(**fields_of(Agent, view), last_lines=view.last_lines, **_said_of(spec))


def external(spec: AgentSpec) -> Agent:
    """Return one agent that we do not start, with the fields of the others: nothing is known of its process."""
    return Agent(**_unknown(spec))


def shown_external(spec: AgentSpec) -> ShownAgent:
    """Return `GET /v1/agents/{name}` of one that we do not start."""
    return ShownAgent(**_unknown(spec), last_lines=(), **_said_of(spec))


def _said_of(spec: AgentSpec | None) -> Json:
    if spec is None:
        return {"command": (), "cwd": None, "digest": "", "priority": 0, "restart": ""}
    policy = spec.policy
    said = {"command": spec.command, "cwd": spec.cwd, "digest": spec.digest}
    return {**said, "priority": policy.priority, "restart": policy.restart.value}


def _unknown(spec: AgentSpec) -> Json:
    nothing = dict.fromkeys(Agent.__struct_fields__)
    known = {"generation": EXTERNAL_GENERATION, "restarts": 0, "detail": "", "guarantee": "none", "log_path": ""}
    known |= {"status": "", "is_outdated": False}
    return {**nothing, **known, "name": spec.name, "agent_class": spec.policy.name, "state": "external"}


def queue(gateway: GatewayView) -> Queue:
    """Return `GET /v1/queue`: those who wait in the order they would be started now, and those who run."""
    running = [(one.name, run) for one in gateway.backends for run in one.running]
    return Queue(
        gateway.mode,
        gateway.queued,
        gateway.running,
        gateway.by_priority,
        gateway.queue,
        [Active(backend=name, **fields_of(Active, run)) for name, run in running],
    )


def first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _probe(url: str) -> str:
    return url if "://" in url else "http://127.0.0.1:11434"


def _pattern_of(resting: Sequence[AgentView]) -> str:
    """Return one word that means all of them, where that is the name of one or of all of a class."""
    if len(resting) == 1:
        return resting[0].name
    stems = {view.name.rstrip("0123456789") for view in resting}
    return f"'{stems.pop()}*'" if len(stems) == 1 else "'*'"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
