"""What does it cost to look at the machine once a second, and to say how long one would wait?

    .venv/bin/python -m bench.sampler [--rounds 300] [--json]
    .venv/bin/python -m bench.sampler --record 60 > tests/traces/NAME.csv

CPU milliseconds of one sample, median and worst hundredth: reading this machine (in the sensor thread; without a card NVML costs
nothing), the ring and the ladder (on the loop), and the look at a backlog of 131, 1000 and 50,000 requests of 131 agents (on the
loop; above 2000 it is only made every 5 s, so its share of a second is a fifth). The promise: a sample costs under 1 ms.
With `--record` it writes what this machine goes through as a trace, for the tests of the ladder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import trio

from bench.ordering import tickets
from bench.report import arguments, percentile, show
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.samples import Load, Machine, Sample
from supervisord_ai.core.scheduler import Scheduler
from supervisord_ai.gateway.outlook import LONG_LINE, LONG_LINE_EVERY_S, Outlook
from supervisord_ai.health.ring import Ring, trace_of
from supervisord_ai.health.sampler import Gauge
from supervisord_ai.host.machine import RealMachine

LIMIT_MS = 1.0
RECORDED = ("at", "cores", "busy", "runnable", "total_bytes", "available_bytes", "cpu_psi", "memory_psi", "wait_share")


class StillClock(VirtualClock):
    """A clock outside of trio."""

    def monotonic(self) -> float:
        return 10_000.0


def timed(deed: Callable[[], object], rounds: int) -> list[float]:
    """The CPU milliseconds of each call."""
    took_ms = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        deed()
        took_ms.append((time.thread_time_ns() - began) / 1e6)
    return took_ms


def backlog(count: int) -> Outlook:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=frozenset("abcde"))
    scheduler.service.note("a", 5.0)
    for ticket in tickets(count, 131):
        # Over a thousand wait on no connection: they asked to be answered later.
        scheduler.push(replace(ticket, is_async=count > 1000 and ticket.id >= f"{1000:08x}"))
    return Outlook(scheduler, StillClock())


def machine_of(gauge: Gauge, now: float) -> Machine:
    return gauge.read(now)


def record(seconds: int) -> None:
    gauge = Gauge(RealMachine())
    samples = []
    for second in range(seconds):
        samples.append(Sample(float(second), time.time(), gauge.read(time.monotonic()), Load()))
        time.sleep(1)
    sys.stdout.write(trace_of(samples, RECORDED))


async def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--record", type=int, default=0, metavar="SECONDS")
    options = parser.parse_args()
    if options.record:
        record(options.record)
        return 0
    gauge, ring = Gauge(RealMachine()), Ring()
    sample = Sample(1.0, 2.0, gauge.read(0.0), Load())
    measured = {
        "read this machine": timed(lambda: gauge.read(time.monotonic()), options.rounds),
        "put it into the ring": timed(lambda: ring.add(sample), options.rounds),
    }
    for count in (131, 1000, 50_000):
        outlook = backlog(count)
        share = 1.0 if count <= LONG_LINE else 1 / LONG_LINE_EVERY_S

        def look(outlook: Outlook = outlook) -> None:
            outlook._looked_at = float("-inf")
            outlook.load(2)

        took = [one * share for one in timed(look, 5 if count > LONG_LINE else 30)]
        measured[f"look at {count:,} waiting"] = took
    figures = {name: {"p50_ms": percentile(took, 50), "p99_ms": percentile(took, 99)} for name, took in measured.items()}
    figures["the ring"] = {"bytes": ring.bytes}
    rows = [(name, f"{of['p50_ms']:.3f}", f"{of['p99_ms']:.3f}") for name, of in figures.items() if "p50_ms" in of]
    show(figures, options.json, "CPU of one sample, milliseconds", ("", "p50", "p99"), rows)
    sampled_ms = figures["read this machine"]["p50_ms"] + figures["put it into the ring"]["p50_ms"]
    if sampled_ms > LIMIT_MS:
        print(f"a sample costs {sampled_ms:.2f} ms, the promise is {LIMIT_MS:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(trio.run(main))
