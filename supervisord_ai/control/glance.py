"""What the page shows: a choice from the status and the agents, in plain values. Whatever is not named here is not on it.

The page is open to every process that may connect to loopback, so there is no prompt, no secret, no command line, no path of a
log, and none of the last words of an agent. Names, figures, states and our own sentences are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from supervisord_ai.agents.view import AgentView
from supervisord_ai.control import report
from supervisord_ai.control.report import Moment
from supervisord_ai.gateway.measures import MeasuresView, Took
from supervisord_ai.gateway.tally import Ending
from supervisord_ai.gateway.view import CacheView, LedgerView
from supervisord_ai.health.view import HealthView

Json = dict[str, Any]
MEMORY_STEP = 100_000  # a figure that moves by less is not sent again
SHARES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def glance(moment: Moment, ended: Mapping[tuple[str, Ending], int]) -> Json:
    """Return the sections of the page that change from second to second."""
    status = report.status(moment)
    gateway = moment.gateway
    return {
        "version": status.version,
        "started_at": status.started_at,
        "now_wall": status.now_wall,
        "level": _level(moment.health),
        "health": {"is_good": status.health.is_good, "reasons": status.health.reasons},
        "backends": [
            {
                "name": one.name,
                "state": one.state,
                "breaker": one.breaker,
                "slots": one.slots,
                "busy": one.busy,
                "loading": one.loading,
                "resident": list(one.resident),
                "healed": one.healed,
                "restarted": one.restarted,
                "running": [
                    {
                        "agent": run.agent,
                        "model": run.model,
                        "since_s": round(run.since_s, 1),
                        "priority": run.priority,
                        "tokens": run.tokens,
                    }
                    for run in one.running
                ],
            }
            for one in gateway.backends
        ],
        "queue": {
            "mode": gateway.mode,
            "queued": gateway.queued,
            "running": gateway.running,
            "by_priority": [
                {
                    "priority": one.priority,
                    "queued": one.queued,
                    "oldest_s": round(one.oldest_s, 1),
                    "estimate_s": None if one.estimate_s is None else round(one.estimate_s, 1),
                }
                for one in gateway.by_priority
            ],
        },
        "classes": [
            {
                "name": one.agent_class,
                "total": one.total,
                "states": one.states,
                "ended": {how.value: ended.get((one.agent_class, how), 0) for how in Ending},
            }
            for one in status.agents.by_class
        ],
        "attention": [
            {"agent": one.agent, "state": one.state, "verdict": one.verdict, "command": one.command}
            for one in status.agents.attention
        ],
        "cache": _cache(gateway.cache),
        "memory": [{"name": one.name, "bytes": one.bytes, "used_bytes": _coarse(one.used_bytes)} for one in status.memory.plan],
        "machine": _machine(moment.health),
        "daemon": {"rss_bytes": _coarse(moment.usage.rss_bytes), "cpu_s": round(moment.usage.cpu_s)},
        "alerts": [{"name": one.name, "when": one.when, "advice": one.advice} for one in status.alerts.firing],
        "bypasses": [{"agent": one.agent, "backend": one.backend} for one in moment.health.bypasses if one.agent is not None],
        "identity": {"level": status.identity.level, "detail": status.identity.detail},
        "guarantee": {"level": status.guarantee.level, "detail": status.guarantee.detail},
        "happened": [{"count": one.count, "last_wall": round(one.last_wall), "what": one.what} for one in status.happened[:8]],
        "down": None if status.down is None else {"lasted_s": round(status.down.lasted_s), "why": status.down.why},
        "next": [{"command": one.command, "why": one.why} for one in status.next],
    }


def agent(view: AgentView, line: LedgerView) -> Json:
    """Return one line of the list of agents."""
    own = max(line.answered - line.cached, 0)
    return {
        "name": view.name,
        "class": view.agent_class,
        "state": view.state.value,
        "since_s": round(view.since_s),
        "restarts": view.restarts,
        "verdict": view.verdict,
        "memory_bytes": _coarse(view.memory_bytes),
        "cap_bytes": view.cap_bytes,
        "is_outdated": view.is_outdated,
        "asked": line.asked,
        "answered": line.answered,
        "cached": line.cached,
        "wait_s": round(line.waited_s / own, 2) if own else None,
        "slot_s": round(line.slot_s / own, 2) if own else None,
        "tokens": line.tokens,
    }


def response_times(recent: Sequence[Took], measures: MeasuresView) -> Json:
    """Return quantiles of the requests that ended lately, of all and of each class, and how long models took to load."""
    classes = sorted({one.agent_class for one in recent})
    return {
        "count": len(recent),
        "all": _parts(recent),
        "classes": {name: _parts([one for one in recent if one.agent_class == name]) for name in classes},
        "loads": [
            {
                "model": model,
                "count": view.count,
                "mean_s": round(view.mean or 0.0, 2),
                "last_s": round(measures.last_load[model], 2),
            }
            for model, view in measures.loads.items()
        ],
    }


def _parts(recent: Sequence[Took]) -> Json:
    return {
        "count": len(recent),
        "wait": quantiles(one.wait_s for one in recent),
        "load": quantiles(one.load_s for one in recent if one.load_s > 0),
        "first_token": quantiles(one.first_token_s for one in recent),
        "generation": quantiles(one.generation_s for one in recent),
        "total": quantiles(one.total_s for one in recent),
    }


def quantiles(values: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99 of values; None of nothing."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {name: round(ordered[min(last, int(share * len(ordered)))], 3) if ordered else None for name, share in SHARES}


def _level(health: HealthView) -> Json:
    told = report.level(health)
    parts = health.level.components if health.level is not None else ()
    return {
        "level": told.level,
        "name": told.name,
        "reason": told.reason,
        "components": [
            {"name": one.name, "pressure": None if one.smoothed is None else round(one.smoothed, 2), "why": one.why}
            for one in parts
        ],
    }


def _cache(cache: CacheView) -> Json:
    tiers = (("L1", cache.l1), ("L2", cache.l2), ("L3", cache.l3))
    return {
        "hits": cache.hits,
        "misses": cache.misses,
        "saved_s": round(cache.saved_s),
        "tiers": [
            {"name": name, "entries": tier.entries, "bytes": tier.bytes, "cap_bytes": tier.cap_bytes, "hits": tier.hits}
            for name, tier in tiers
        ],
    }


def _machine(health: HealthView) -> Json | None:
    if health.sample is None:
        return None
    sampled = health.sample.machine
    return {
        "cores": sampled.cores,
        "busy": None if sampled.busy is None else round(sampled.busy, 2),
        "total_bytes": sampled.total_bytes,
        "available_bytes": _coarse(sampled.available_bytes),
        "swap_used_bytes": _coarse(sampled.swap_used_bytes),
        "gpus": [
            {"name": gpu.name, "total_bytes": gpu.total_bytes, "used_bytes": _coarse(gpu.used_bytes), "busy": gpu.busy}
            for gpu in sampled.gpus or ()
        ],
    }


def _coarse(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else round(size_bytes / MEMORY_STEP) * MEMORY_STEP
