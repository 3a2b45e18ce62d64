"""What the owner is shown, as plain values for JSON: made from the views of the rooms, deciding nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from supervisord_ai.agents.view import AgentView, FleetView
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.identity import EXTERNAL_GENERATION
from supervisord_ai.core.memory_plan import MemoryPolicy, parts
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.core.samples import Machine
from supervisord_ai.gateway.accept import AcceptView
from supervisord_ai.gateway.view import BackendView, GatewayView
from supervisord_ai.health.view import HealthView

Json = dict[str, Any]

# An agent that came back is worth a look for this long.
RECENT_S = 600.0
QUIET_VERDICTS = ("stopped", "finished")


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
    health: HealthView = dataclasses.field(default_factory=HealthView)


def status(moment: Moment) -> Json:
    """Return `GET /v1/status`."""
    fleet, gateway = moment.fleet, moment.gateway
    return {
        "version": moment.version,
        "pid": moment.pid,
        "started_at": moment.started_wall,
        "uptime_s": round(moment.now_wall - moment.started_wall, 3),
        "level": {"level": 0, "name": "normal", "reason": "pressure is not measured in this version"},
        "health": {"is_good": not reasons(moment), "reasons": reasons(moment)},
        "backends": [backend(one) for one in gateway.backends],
        "queue": {
            "mode": gateway.mode,
            "queued": gateway.queued,
            "running": gateway.running,
            "by_priority": [plain(one) for one in gateway.by_priority],
        },
        "agents": {
            "total": len(fleet.agents),
            "by_class": by_class(fleet.agents),
            "attention": [
                {"agent": view["name"], **{key: view[key] for key in ("state", "verdict", "detail", "restarts", "since_s")}}
                for view in map(agent, sorted(filter(needs_attention, fleet.agents), key=_worst_first))
            ],
        },
        "identity": {"level": moment.identity.level, "detail": moment.identity.detail},
        "guarantee": {"level": fleet.guarantee, "detail": fleet.guarantee_detail},
        "cache": plain(gateway.cache),
        "spool": plain(gateway.spool),
        "memory": {
            "plan": plan(moment),
            "total_bytes": moment.memory.total_bytes,
            "daemon_rss_bytes": moment.usage.rss_bytes,
            "daemon_cpu_s": round(moment.usage.cpu_s, 3),
        },
        "bypasses": [plain(one) for one in moment.health.bypasses],
        "alerts": {
            "watched": len(moment.health.alerts),
            "firing": [plain(one) for one in moment.health.alerts if one.state == "firing"],
        },
        "machine": machine(moment.health.sample.machine) if moment.health.sample is not None else None,
        "totals": plain(gateway.totals),
    }


def reasons(moment: Moment) -> list[str]:
    """Return what is not as it should be; [] is good health."""
    found = []
    for one in moment.gateway.backends:
        if one.state != "ready":
            found.append(f"backend {one.name} is {one.state}" + (f": {one.detail}" if one.detail else ""))
        if one.breaker != "closed":
            found.append(f"the breaker of backend {one.name} is {one.breaker}: it failed too often, who waits goes on waiting")
    for past in moment.health.bypasses:
        if past.agent is not None:
            found.append(f"agent {past.agent} calls backend {past.backend} itself, past the queue")
    if moment.gateway.mode != "open":
        found.append(f"the queue is {moment.gateway.mode}")
    quarantined = [view.name for view in moment.fleet.agents if view.state is AgentState.QUARANTINED]
    if quarantined:
        found.append(f"{len(quarantined)} in quarantine: {_some(quarantined)}")
    returning = [view.name for view in moment.fleet.agents if view.state is AgentState.BACKOFF]
    if returning:
        found.append(f"{len(returning)} waiting to be started again: {_some(returning)}")
    return found


def machine(sampled: Machine) -> Json:
    """Return the latest sample of the machine; null is what it does not tell."""
    gpus = None if sampled.gpus is None else [{**plain(gpu), "used": gpu.used} for gpu in sampled.gpus]
    return {**plain(sampled), "gpus": gpus}


def backend(view: BackendView) -> Json:
    return {**plain(view), "running": [plain(one) for one in view.running]}


def by_class(agents: Iterable[AgentView]) -> list[Json]:
    """Return how many agents of each class are in each state."""
    states: dict[str, Counter[str]] = {}
    for view in agents:
        states.setdefault(view.agent_class, Counter())[view.state.value] += 1
    return [{"class": name, "total": sum(counts.values()), "states": dict(counts)} for name, counts in states.items()]


def needs_attention(view: AgentView) -> bool:
    """Tell whether a person should look at this agent: it rests in trouble, or came back from some a moment ago."""
    if view.state in {AgentState.QUARANTINED, AgentState.BACKOFF}:
        return True
    was_trouble = view.verdict is not None and not view.verdict.startswith(QUIET_VERDICTS)
    return was_trouble and (view.state is AgentState.STOPPED or view.since_s < RECENT_S)


def _worst_first(view: AgentView) -> tuple[bool, bool, float]:
    return (view.state is not AgentState.QUARANTINED, view.state is not AgentState.BACKOFF, view.since_s)


def plan(moment: Moment) -> list[Json]:
    """Return the memory plan, with what is used where we know it."""
    cache = moment.gateway.cache
    known = {
        "agents": sum(view.memory_bytes or 0 for view in moment.fleet.agents),
        "cache": cache.l1.bytes + moment.gateway.spool.memory_bytes,
    }
    return [{"name": name, "bytes": size, "used_bytes": known.get(name)} for name, size in parts(moment.memory)]


def agent(view: AgentView) -> Json:
    """Return one agent of `GET /v1/agents`."""
    fields = plain(view)
    return {"name": fields.pop("name"), "class": fields.pop("agent_class"), **fields}


def external(spec: AgentSpec) -> Json:
    """Return one agent that we do not start, with the fields of the others: nothing is known of its process."""
    nothing = dict.fromkeys(("pid", "since_s", "verdict", "memory_bytes", "peak_bytes", "cap_bytes"))
    return {
        "name": spec.name,
        "class": spec.policy.name,
        "state": "external",
        "generation": EXTERNAL_GENERATION,
        **nothing,
        "restarts": 0,
        "detail": "",
        "guarantee": "none",
        "log_path": "",
        "is_outdated": False,
        "status": "",
    }


def queue(gateway: GatewayView) -> Json:
    """Return `GET /v1/queue`: those who wait in the order they would be started now, and those who run."""
    return {
        "mode": gateway.mode,
        "queued": gateway.queued,
        "running": gateway.running,
        "by_priority": [plain(one) for one in gateway.by_priority],
        "waiting": [plain(one) for one in gateway.queue],
        "active": [{"backend": one.name, **plain(run)} for one in gateway.backends for run in one.running],
    }


def plain(view: Any) -> Json:
    """Return the fields of a view, its seconds rounded to what a clock can mean."""
    values: Json = {}
    for field in dataclasses.fields(view):
        value = getattr(view, field.name)
        if dataclasses.is_dataclass(value):
            value = plain(value)
        elif isinstance(value, float):
            value = round(value, 3)
        values[field.name] = value
    return values


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
