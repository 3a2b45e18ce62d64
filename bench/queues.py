"""How many requests a second does the journal accept from 131 producers, beside other durable queues?

    .venv/bin/python -m bench.queues [--producers 131] [--seconds 3] [--rounds 3] [--json]

Each producer puts a job of 1 KB, waits until it is acknowledged, and puts the next. Two strengths, not compared with each other:
"disk": an acknowledged job survives a power cut (ours: fdatasync; Redis: appendfsync always; huey: synchronous FULL). "process":
it survives the death of its process (ours: the commit; Redis: appendfsync everysec; persist-queue: its default, WAL with NORMAL;
huey without fsync is synchronous OFF, which is weaker and said so). Redis is one Redis Stream through redis-py, as threads and
as asyncio tasks; the faster of the two counts. All on the same disk, in turn, round by round; each queue starts empty.

Ours writes two rows a request, with its agent, deadline, priority and digest; theirs is a body. The aim: five times Redis.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import trio

from bench.journal import row
from bench.load import cpu_ns
from bench.peers import ROOT, program, venv_of
from bench.report import Figures, arguments, percentile, show
from bench.rig import wait_until_accepts
from supervisord_ai.clock import SystemClock
from supervisord_ai.store.database import Durability
from supervisord_ai.store.state import State

AIM = 5.0
PEERS = {
    "disk": ("redis", "redis-asyncio", "huey-fsync"),
    "process": ("redis", "redis-asyncio", "persist-queue", "huey-off"),
}
FSYNC = {"disk": "always", "process": "everysec"}
DURABILITY = {"disk": Durability.POWER, "process": Durability.PROCESS}


async def ours(folder: Path, durability: Durability, producers: int, seconds: float) -> Figures:
    state = State(folder, clock=SystemClock(), durability=durability, cache_bytes=1_000_000)
    numbers, waits_s = count(1), []

    async def produce(producer: int) -> None:
        while True:
            made = row(next(numbers), producer)
            began = time.perf_counter()
            await state.requests.accept(made)
            waits_s.append(time.perf_counter() - began)

    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        for producer in range(producers):
            nursery.start_soon(produce, producer)
        await trio.sleep(0.2)
        waits_s.clear()
        cpu_s, began_at = time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        spent_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_s
        nursery.cancel_scope.cancel()
    done = len(waits_s)
    return {
        "per_s": done / spent_s,
        "cpu_us": cpu_s / done * 1e6,
        "ms_p50": percentile(waits_s, 50) * 1000,
        "ms_p99": percentile(waits_s, 99) * 1000,
    }


@contextmanager
def redis_server(folder: Path, fsync: str) -> Iterator[tuple[str, list[int]]]:
    """A Redis that writes; its socket and its pids."""
    where = folder / "redis.sock"
    binary = program("redis-server", "redis-server")
    keeps = ["--appendonly", "yes", "--appendfsync", fsync, "--save", ""]
    command = [binary, "--port", "0", "--unixsocket", str(where), "--dir", str(folder), "--daemonize", "no", *keeps]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until_accepts(str(where))
        yield str(where), [server.pid]
    finally:
        server.terminate()
        server.wait(15)


def theirs(peer: str, folder: Path, strength: str, producers: int, seconds: float) -> Figures:
    plan: Figures = {"peer": peer, "folder": str(folder), "producers": producers, "seconds": seconds}
    if not peer.startswith("redis"):
        return _run(plan, [])
    with redis_server(folder, FSYNC[strength]) as (where, pids):
        return _run(plan | {"socket": where}, pids)


def _run(plan: Figures, servers: list[int]) -> Figures:
    before = cpu_ns(servers)
    command = [str(venv_of("queue") / "bin" / "python"), str(ROOT / "bench" / "queue_peers.py"), json.dumps(plan)]
    found: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    used_s = found.pop("client_cpu_s") + (cpu_ns(servers) - before) / 1e9
    return found | {"cpu_us": used_s / found["jobs"] * 1e6}


def figures(producers: int, seconds: float, rounds: int) -> Figures:
    venv_of("queue")
    seen: dict[tuple[str, str], list[Figures]] = {}
    # Not under /tmp, which may be memory: there nothing is durable and everything is fast.
    with tempfile.TemporaryDirectory(prefix="ai-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        for number in range(rounds):
            for strength, peers in PEERS.items():
                for who in ("ours", *peers):
                    folder = Path(name, f"{strength}-{who}-{number}")
                    folder.mkdir()
                    if who == "ours":
                        found = trio.run(ours, folder, DURABILITY[strength], producers, seconds)
                    else:
                        found = theirs(who, folder, strength, producers, seconds)
                    seen.setdefault((strength, who), []).append(found)
    medians: Figures = {strength: {} for strength in PEERS}
    for (strength, who), windows in seen.items():
        keys = ("per_s", "cpu_us", "ms_p50", "ms_p99")
        medians[strength][who] = {key: round(statistics.median(one[key] for one in windows), 2) for key in keys}
    ratios = {
        strength: round(each["ours"]["per_s"] / max(each["redis"]["per_s"], each["redis-asyncio"]["per_s"]), 1)
        for strength, each in medians.items()
    }
    load = round(os.getloadavg()[0], 1)
    within = min(ratios.values()) >= AIM
    return {"producers": producers, "load": load, "queues": medians, "times_redis": ratios, "within_aim": within}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--producers", type=int, default=131)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    found = figures(args.producers, args.seconds, args.rounds)
    rows = [
        (f"{strength}: {who}", f"{each['per_s']:.0f}", f"{found['queues'][strength]['ours']['per_s'] / each['per_s']:.1f}",
         f"{each['cpu_us']:.0f}", f"{each['ms_p50']:.1f}", f"{each['ms_p99']:.1f}")
        for strength, queues in found["queues"].items()
        for who, each in queues.items()
    ]  # fmt: skip
    times = ", ".join(f"{strength} {ratio} x" for strength, ratio in found["times_redis"].items())
    title = f"{args.producers} producers, durable enqueue, load {found['load']}; of Redis: {times} (aim {AIM:.0f} x)"
    show(found, args.json, title, ("survives", "jobs/s", "ours is x", "CPU us", "p50 ms", "p99 ms"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
