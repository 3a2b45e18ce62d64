"""What does one decision cost while 50,000 requests wait?

    .venv/bin/python -m bench.ordering [--queued 50000] [--agents 131] [--json]

`core/scheduler.py` alone, with made-up time: 131 agents of two classes, ten priorities, five models. Each figure is the time of
one call, the median and the worst hundredth of many, in microseconds. `decide` is asked with one slot free, so it finds one
start each time; that it also finds who has expired, and when it must be asked again, is part of what a slot costs.
The same is measured with a hundredth of the queue: what grows with the queue is a scan, and shows in the last column.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Sequence

from bench.report import Figures, arguments, percentile, show
from supervisord_ai.core.scheduler import Scheduler, Start, Ticket

MODELS = ("a", "b", "c", "d", "e")
DECISIONS = 400
TABLE_OPERATIONS = ("push", "decide", "settle", "next_decision_at", "remove")
LIMIT_US = 1000.0
"""All that a slot costs, on a busy machine; a scan of the whole queue costs several times that."""


def tickets(count: int, agents: int, seed: int = 7) -> list[Ticket]:
    seeded = random.Random(seed)
    return [
        Ticket(
            id=f"{number:08x}",
            agent=f"agent-{(agent := seeded.randrange(agents)):03}",
            agent_class="opus" if agent < agents * 36 // 131 else "sonnet",
            priority=seeded.randint(1, 10),
            arrived_at=number * 0.001,
            start_by=1e9 + number,
            model=seeded.choice(MODELS),
            weight=2.0 if agent < agents * 36 // 131 else 1.0,
        )
        for number in range(count)
    ]


def timed(deed: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    deed()
    return (time.perf_counter_ns() - began) / 1000


def measure(queued: int, agents: int) -> dict[str, dict[str, float]]:
    """Microseconds of each operation at this depth."""
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=frozenset(MODELS), installed=frozenset(MODELS))
    waiting = tickets(queued + 2 * DECISIONS, agents)
    for ticket in waiting[:queued]:
        scheduler.push(ticket)
    scheduler.decide(100.0)
    spent: dict[str, list[float]] = {name: [] for name in TABLE_OPERATIONS}
    now = 100.0
    gc.collect()
    gc.freeze()
    for ticket in waiting[queued : queued + DECISIONS]:
        now += 0.5
        oldest = min(scheduler.leases("main"), key=lambda lease: lease.started_at).ticket.id
        spent["settle"].append(timed(lambda ended=oldest, at=now: scheduler.settle(ended, at)))  # type: ignore[misc]
        spent["push"].append(timed(lambda waits=ticket: scheduler.push(waits)))  # type: ignore[misc]
        effects: list[object] = []
        spent["decide"].append(timed(lambda at=now, into=effects: into.extend(scheduler.decide(at))))  # type: ignore[misc]
        assert len(effects) == 1
        assert isinstance(effects[0], Start)
        spent["next_decision_at"].append(timed(lambda at=now: scheduler.next_decision_at(at)))  # type: ignore[misc]
    for ticket in waiting[queued + DECISIONS :]:
        scheduler.push(ticket)
        spent["remove"].append(timed(lambda left=ticket.id: scheduler.remove(left)))  # type: ignore[misc]
    gc.unfreeze()
    return {name: {"p50_us": percentile(times, 50), "p99_us": percentile(times, 99)} for name, times in spent.items()}


def figures(queued: int, agents: int) -> Figures:
    shallow, deep = measure(queued // 100, agents), measure(queued, agents)
    return {
        "queued": queued,
        "agents": agents,
        "operations": {
            name: deep[name] | {"growth": round(deep[name]["p50_us"] / shallow[name]["p50_us"], 1)} for name in TABLE_OPERATIONS
        },
        "within_limit": sum(deep[name]["p50_us"] for name in TABLE_OPERATIONS) < LIMIT_US,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--queued", type=int, default=50_000)
    parser.add_argument("--agents", type=int, default=131)
    args = parser.parse_args(argv)
    found = figures(args.queued, args.agents)
    rows = [(name, *(f"{value:.1f}" for value in each.values())) for name, each in found["operations"].items()]
    title = f"{args.queued} queued, {args.agents} agents; microseconds a call"
    show(found, args.json, title, ("operation", "p50", "p99", f"x at {args.queued // 100} queued"), rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
