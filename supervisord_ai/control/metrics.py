"""What Prometheus scrapes: the views of the rooms as metric families, made when they are asked for.

    look (on the loop: views and copied counts) -> families -> text (in a thread: a few thousand lines)

Nothing is registered anywhere and nothing is kept here. Names are `ai_supervisor_...`, base units, counters end in `_total`.
Labels are bounded: classes and agents are the roster's, models are installed or in the config (else `other`), outcomes, tiers,
states and verdicts are our own words. A name that was scraped once keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from supervisord_ai.control import report
from supervisord_ai.control.report import Moment
from supervisord_ai.control.scrape import Counted
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.figures import BREAKER_WORDS
from supervisord_ai.core.histogram import HistogramView
from supervisord_ai.core.samples import Psi
from supervisord_ai.gateway.measures import Part
from supervisord_ai.gateway.tally import Ending

PREFIX = "ai_supervisor_"
PRIORITIES = range(1, 11)
MODES = ("open", "paused", "draining")

Labels = tuple[str, ...]
Rows = Iterable[tuple[Labels, float | None]]

_PARTS = {
    Part.WAIT: "How long requests waited for a slot, without the load of their model",
    Part.LOAD: "How long requests waited for their model to be loaded, of those that did",
    Part.FIRST_TOKEN: "From a slot to the first byte of an answer",
    Part.GENERATION: "From the first byte of an answer to its end",
}


def exposed(moment: Moment, counted: Counted) -> bytes:
    """Return the text format of everything."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(list(families(moment, counted))))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def families(moment: Moment, counted: Counted) -> Iterator[Metric]:
    """Return every family; one that has nothing to say here is there without a line."""
    yield from _daemon(moment)
    yield from _level(moment)
    yield from _backends(moment)
    yield from _queue(moment)
    yield from _requests(moment, counted)
    yield from _agents(moment, counted)
    yield from _cache(moment)
    yield from _memory(moment)
    yield from _alerts(moment)


def _gauge(name: str, words: str, labels: Sequence[str] = (), rows: Rows = ()) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, words, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


def _counter(name: str, words: str, labels: Sequence[str] = (), rows: Rows = ()) -> Metric:
    family = CounterMetricFamily(PREFIX + name, words, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


def _histogram(name: str, words: str, labels: Sequence[str], rows: Iterable[tuple[Labels, HistogramView]]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, words, labels=labels)
    for values, view in rows:
        family.add_metric(values, view.cumulative(), view.sum)
    return family


def _one(number: float | None) -> Rows:
    return [((), number)]


# --- the daemon and the machine ------------------------------------------------------------------------------------------


def _daemon(moment: Moment) -> Iterator[Metric]:
    yield _gauge("build_info", "1; the label is the version", ["version"], [((moment.version,), 1)])
    yield _gauge("start_time_seconds", "When the daemon started, in seconds since 1970", rows=_one(moment.started_wall))
    yield _gauge("healthy", "1 when nothing needs a look, as healthz says it", rows=_one(float(not report.reasons(moment))))
    yield _gauge("daemon_memory_bytes", "Resident memory of the daemon", rows=_one(moment.usage.rss_bytes))
    yield _counter("daemon_cpu_seconds", "Processor time of the daemon", rows=_one(moment.usage.cpu_s))
    yield _gauge("identity_proved", "1 when the identity of every agent is proved", rows=_one(moment.identity.level == "proved"))


def _level(moment: Moment) -> Iterator[Metric]:
    view = moment.health.level
    yield _gauge(
        "level",
        "How much service is degraded: 0 normal, 1 minor, 2 major, 3 critical",
        rows=_one(float(view.level) if view else 0.0),
    )
    parts = view.components if view is not None else ()
    yield _gauge(
        "pressure_ratio",
        "Pressure, smoothed: 0 when nobody waits, 1 when a promise breaks",
        ["component"],
        [((one.name,), one.smoothed) for one in parts],
    )


def _memory(moment: Moment) -> Iterator[Metric]:
    plan = report.plan(moment)
    yield _gauge("memory_plan_bytes", "The memory plan", ["part"], [((one.name,), one.bytes) for one in plan])
    yield _gauge(
        "memory_used_bytes",
        "Memory in use of the plan, where it is measured",
        ["part"],
        [((p.name,), p.used_bytes) for p in plan],
    )
    sample = moment.health.sample
    machine = sample.machine if sample is not None else None
    known = machine is not None
    yield _gauge("machine_memory_bytes", "Memory of the machine", rows=_one(machine.total_bytes if machine else None))
    yield _gauge(
        "machine_memory_available_bytes",
        "Memory that can be had without swapping",
        rows=_one(machine.available_bytes if machine else None),
    )
    yield _gauge("machine_swap_used_bytes", "Swap in use", rows=_one(machine.swap_used_bytes if machine else None))
    yield _gauge("machine_cpu_busy_ratio", "Share of all cores in use", rows=_one(machine.busy if machine else None))
    stalls: list[tuple[Labels, float | None]] = []
    if machine is not None:
        stalls = [((name,), _some(psi)) for name, psi in (("cpu", machine.cpu), ("memory", machine.memory), ("io", machine.io))]
    yield _gauge("machine_stall_ratio", "Share of the last 10 s in which some task waited (PSI)", ["resource"], stalls)
    gpus = list(enumerate((machine.gpus if machine else None) or ()))
    yield _gauge("gpu_memory_bytes", "Memory of a graphics processor", ["gpu"], [((str(n),), gpu.total_bytes) for n, gpu in gpus])
    yield _gauge(
        "gpu_memory_used_bytes", "Memory in use of a graphics processor", ["gpu"], [((str(n),), g.used_bytes) for n, g in gpus]
    )
    yield _gauge(
        "gpu_busy_ratio", "Share of time in which a graphics processor computed", ["gpu"], [((str(n),), g.busy) for n, g in gpus]
    )
    yield _gauge("sampled", "1 when the machine was sampled", rows=_one(float(known)))


def _some(psi: Psi | None) -> float | None:
    return None if psi is None else psi.some


# --- Ollama --------------------------------------------------------------------------------------------------------------


def _backends(moment: Moment) -> Iterator[Metric]:
    backends = moment.gateway.backends
    each = ["backend"]
    yield _gauge("backend_up", "1 when that Ollama answers", each, [((b.name,), b.state == "ready") for b in backends])
    yield _gauge("slots", "Calls that Ollama is handed at once, at most", each, [((b.name,), b.slots) for b in backends])
    yield _gauge("slots_busy", "Slots in use", each, [((b.name,), b.busy) for b in backends])
    yield _gauge(
        "breaker_state",
        "1 for the state the breaker of that Ollama is in",
        ["backend", "state"],
        [((b.name, word), b.breaker == word) for b in backends for word in BREAKER_WORDS],
    )
    yield _gauge(
        "model_loaded",
        "1 for each loaded model",
        ["backend", "model"],
        [((b.name, model), 1) for b in backends for model in b.resident],
    )
    yield _counter(
        "slots_healed", "Models unloaded because a slot of theirs was lost", each, [((b.name,), b.healed) for b in backends]
    )
    yield _counter("backend_restarts", "Restarts of an engine that hung", each, [((b.name,), b.restarted) for b in backends])


def _queue(moment: Moment) -> Iterator[Metric]:
    gateway = moment.gateway
    waiting = {one.priority: one for one in gateway.by_priority}
    known = sorted({*PRIORITIES, *waiting})
    each = ["priority"]
    yield _gauge(
        "queue_requests",
        "Requests that wait for a slot",
        each,
        [((str(p),), waiting[p].queued if p in waiting else 0) for p in known],
    )
    yield _gauge(
        "queue_oldest_seconds",
        "How long the oldest of them has waited",
        each,
        [((str(p),), waiting[p].oldest_s if p in waiting else 0) for p in known],
    )
    yield _gauge(
        "queue_estimate_seconds",
        "How long one would wait that came now, where that can be known",
        each,
        [((str(p),), one.estimate_s) for p, one in sorted(waiting.items())],
    )
    yield _gauge(
        "queue_mode", "1 for what the owner said about the queue", ["mode"], [((word,), gateway.mode == word) for word in MODES]
    )
    spool = gateway.spool
    yield _gauge(
        "spool_bytes",
        "Answers on their way, held until they are read",
        ["where"],
        [(("memory",), spool.memory_bytes), (("disk",), spool.disk_bytes)],
    )


def _requests(moment: Moment, counted: Counted) -> Iterator[Metric]:
    totals, measures = moment.gateway.totals, counted.measures
    classes = sorted({view.agent_class for view in moment.fleet.agents} | {name for name, _ in counted.ended})
    yield _counter(
        "requests",
        "Requests for a model that ended, by how",
        ["class", "outcome"],
        [((name, how.value), counted.ended.get((name, how), 0)) for name in classes for how in Ending],
    )
    for part, words in _PARTS.items():
        rows = [((name, model), view) for (one, name, model), view in measures.times.items() if one is part]
        yield _histogram(f"request_{part.value}_seconds", words, ["class", "model"], rows)
    yield _histogram(
        "model_load_seconds",
        "How long loads of a model took",
        ["model"],
        [((model,), view) for model, view in measures.loads.items()],
    )
    yield _counter(
        "tokens", "Tokens of whole answers", ["class", "model"], [(key, count) for key, count in sorted(measures.tokens.items())]
    )
    yield _counter(
        "slot_seconds",
        "Time on slots that a class was charged for",
        ["class"],
        [((name,), measures.slot_s.get(name, 0.0)) for name in classes],
    )
    ledger = counted.ledger.values()
    yield _counter("requests_coalesced", "Requests that shared the call of another", rows=_one(totals.coalesced))
    yield _counter(
        "saved_slot_seconds",
        "Time on slots that was not needed, because an answer was kept or shared",
        ["by"],
        [
            (("cache",), sum(line.cached_saved_s for line in ledger)),
            (("coalesce",), sum(line.coalesced_saved_s for line in ledger)),
        ],
    )
    yield _counter(
        "requests_recovered", "Requests of the daemon before this one, found at the start", rows=_one(totals.recovered)
    )
    yield _counter("requests_rejoined", "Callers that came back to their request or its answer", rows=_one(totals.rejoined))


def _cache(moment: Moment) -> Iterator[Metric]:
    cache = moment.gateway.cache
    tiers = (("l1", cache.l1), ("l2", cache.l2), ("l3", cache.l3))
    yield _gauge("cache_entries", "Answers kept", ["tier"], [((name,), tier.entries) for name, tier in tiers])
    yield _gauge("cache_bytes", "Size of the answers kept", ["tier"], [((name,), tier.bytes) for name, tier in tiers])
    yield _gauge("cache_limit_bytes", "How much they may be", ["tier"], [((name,), tier.cap_bytes) for name, tier in tiers])
    yield _counter("cache_hits", "Answers given from the cache", ["tier"], [((name,), tier.hits) for name, tier in tiers])
    yield _counter(
        "cache_evictions", "Answers dropped to stay within the limit", ["tier"], [((name,), tier.evicted) for name, tier in tiers]
    )
    yield _counter("cache_misses", "Requests that might have been answered from the cache, and were not", rows=_one(cache.misses))
    yield _counter("cache_stale_hits", "Answers given although they were past their time", rows=_one(cache.stale))
    yield _counter("cache_stored", "Answers put into the cache", rows=_one(cache.stored))


# --- agents --------------------------------------------------------------------------------------------------------------


def _agents(moment: Moment, counted: Counted) -> Iterator[Metric]:
    by_class = report.by_class(moment.fleet.agents)
    yield _gauge(
        "agents",
        "Agents by class and state",
        ["class", "state"],
        [((one.agent_class, state.value), one.states.get(state.value, 0)) for one in by_class for state in AgentState],
    )
    troubled = sum(map(report.needs_attention, moment.fleet.agents))
    yield _gauge("agents_attention", "Agents that a person should look at", rows=_one(troubled))
    yield _gauge(
        "agent_memory_bytes",
        "Memory of an agent that runs",
        ["agent", "class"],
        [((view.name, view.agent_class), view.memory_bytes) for view in moment.fleet.agents],
    )
    lives = counted.lives
    names = [one.agent_class for one in by_class]
    yield _counter("agent_starts", "Starts of agents", ["class"], [((name,), lives.starts.get(name, 0)) for name in names])
    yield _counter(
        "agent_restarts", "Starts of agents that had ended before", ["class"], [((n,), lives.restarts.get(n, 0)) for n in names]
    )
    yield _counter("agent_ends", "Ends of agents, by verdict", ["class", "verdict"], sorted(lives.ends.items()))


def _alerts(moment: Moment) -> Iterator[Metric]:
    yield _gauge(
        "alert_firing", "1 when that alert fires", ["alert"], [((a.name,), a.state == "firing") for a in moment.health.alerts]
    )
    past = [one for one in moment.health.bypasses if one.agent is not None]
    yield _gauge("bypasses", "Agents that called an Ollama past the queue", rows=_one(len(past)))
