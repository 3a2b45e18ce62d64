"""Do memory, descriptors and latency stay flat while 131 agents ask for a long time?

    .venv/bin/python -m bench.soak [--minutes 10] [--agents 131] [--every 30] [--json]

A real daemon before the double of Ollama, and real agents: each is a process of its own that asks a new question about every so
many seconds over the socket it was given. Meanwhile, every 5 s, what the daemon holds (resident memory, descriptors, threads, the
size of its journal) and how long it takes to say who asks. A line is laid through each (least squares) over what comes after the
first third, which is warming up: its slope is printed, an hour's worth of it, and what it would be were it noise alone (two
standard errors). Answers are kept for 30 s, so that what is kept for callers who come back is not taken for a leak.

Flat means: the slope of memory is below 5 MB an hour or within its noise, and so are two descriptors and a millisecond.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import report
from tests.system.harness import USER_LINE, Daemon, ask, config_text, eventually, ollama_double

LOOK_S = 5.0
MODEL = "llama3.2:3b"
LIMITS = {"rss_mb": 5.0, "fds": 2.0, "latency_ms": 1.0, "threads": 1.0}
UNITS = {
    "rss_mb": "memory, MB",
    "fds": "descriptors",
    "threads": "threads",
    "latency_ms": "whoami, ms",
    "journal_mb": "journal, MB",
}

AGENT = """
import http.client, json, os, random, socket, sys, time
every_s = float(sys.argv[1])
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["AI_SUPERVISOR_SOCKET"])
turn = 0
while True:
    time.sleep(random.uniform(0, 2 * every_s))
    turn += 1
    body = {"model": "llama3.2:3b", "prompt": f"[[n=5 delay=0.01]] {os.getpid()} {turn}", "stream": turn % 2 == 0}
    try:
        connection = Unix("localhost", timeout=300)
        connection.request("POST", "/api/generate", json.dumps(body))
        connection.getresponse().read()
        connection.close()
    except (OSError, http.client.HTTPException):
        print("failed", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through what was seen: where it ends, how much it rises in an hour, and what of that may be noise."""

    first: float
    last: float
    per_hour: float
    noise_per_hour: float


def slope_of(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """Lay a line through the values by least squares; the noise is two standard errors of its slope."""
    count = len(values)
    mean_t, mean_v = sum(times_s) / count, sum(values) / count
    spread = sum((t - mean_t) ** 2 for t in times_s) or 1.0
    rise = sum((t - mean_t) * (v - mean_v) for t, v in zip(times_s, values, strict=True)) / spread
    left = sum((v - mean_v - rise * (t - mean_t)) ** 2 for t, v in zip(times_s, values, strict=True))
    error = math.sqrt(left / max(count - 2, 1) / spread)
    at = [mean_v + rise * (t - mean_t) for t in (times_s[0], times_s[-1])]
    return Slope(round(at[0], 3), round(at[1], 3), round(rise * 3600, 3), round(2 * error * 3600, 3))


@contextmanager
def fleet(folder: Path, agents: int, every_s: float) -> Iterator[Daemon]:
    """The daemon with its agents up."""
    (folder / "agent.py").write_text(AGENT)
    extra = f"""
[start]
batch_size = 50
batch_delay = "10s"
[queue]
result_keep = "30s"
[retention]
events = "1h"
[memory]
enforce = "observe"
overcommit = 10.0
[class.sonnet]
memory = "64MB"
ceiling = 3
rate = "100/min"
start = "100ms"
{USER_LINE}
[[agents]]
name = "sonnet-{{n:03}}"
class = "sonnet"
count = {agents}
command = ["/usr/bin/env", "python3", "-I", "-S", "{folder}/agent.py", "{every_s}"]
"""
    with ollama_double("--model", MODEL) as url:
        daemon = Daemon(folder, config_text(folder, ollama=url, extra=extra))
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.stop()


def look(daemon: Daemon, process: psutil.Process) -> dict[str, float]:
    """What the daemon holds now, and how long it takes to answer."""
    began = time.perf_counter()
    assert ask(daemon.llm, "/supervisor/v1/whoami").status == 200
    latency_ms = (time.perf_counter() - began) * 1000
    files = (daemon.folder / "state").glob("journal.db*")
    return {
        "rss_mb": process.memory_info().rss / 1e6,
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "latency_ms": latency_ms,
        "journal_mb": sum(file.stat().st_size for file in files) / 1e6,
    }


def soak(agents: int, minutes: float, every_s: float) -> dict[str, Any]:
    """Run it, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="ai-soak-") as name, fleet(Path(name), agents, every_s) as daemon:
        Path(name).chmod(0o755)
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)

        def are_up() -> bool:
            return [agent["state"] for agent in daemon.agents().values()] == ["running"] * agents

        eventually(are_up, within_s=300, what=f"{agents} agents run")
        load = os.getloadavg()[0]
        began = time.monotonic()
        times: list[float] = []
        seen: list[dict[str, float]] = []
        while (now := time.monotonic() - began) < minutes * 60:
            times.append(now)
            seen.append(look(daemon, process))
            time.sleep(LOOK_S)
        totals = daemon.status().get("requests", {})
        generations = sum(agent.get("generation", 0) for agent in daemon.agents().values())
    warm = len(times) // 3
    slopes = {key: slope_of(times[warm:], [one[key] for one in seen[warm:]]) for key in UNITS}
    flat = {key: slopes[key].per_hour <= max(limit, slopes[key].noise_per_hour) for key, limit in LIMITS.items()}
    return {
        "agents": agents,
        "minutes": minutes,
        "every_s": every_s,
        "looks": len(seen),
        "load_before": round(load, 2),
        "requests": totals,
        "restarts": generations - agents,
        "slopes": {key: {name: getattr(slope, name) for name in Slope.__slots__} for key, slope in slopes.items()},
        "is_flat": flat,
    }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=131)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two questions of an agent")
    args = parser.parse_args()
    figures = soak(args.agents, args.minutes, args.every)
    rows = [
        (UNITS[key], *(f"{one[name]:.2f}" for name in ("first", "last", "per_hour", "noise_per_hour")))
        for key, one in figures["slopes"].items()
    ]
    title = f"{args.agents} agents for {args.minutes:.0f} min, {figures['looks']} looks, load {figures['load_before']}"
    report.show(figures, args.json, title, ("", "begins", "ends", "an hour", "noise"), rows)
    return 0 if all(figures["is_flat"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
