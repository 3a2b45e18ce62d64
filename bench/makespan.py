"""131 agents ask at once, and the engine has two slots: how long until the last one has its answer?

    .venv/bin/python -m bench.makespan [--callers 131] [--slots 2] [--job 0.25] [--rounds 3] [--json]

The double of Ollama as a server (tests/fakes), whose calls take `--job` seconds each; the callers ask it directly and through us,
in turn, all at the same instant, each with a prompt of its own and a connection of its own. The ideal is the number of rounds
on the slots times the job. Directly they wait inside Ollama, in the order they came; through us in our journalled queue, and the
double never has more than its slots at once, which it counts. On the real clock: a busy machine shows in both.

The aim: within 1.05 times the ideal.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.load import cpu_ns
from bench.report import Figures, arguments, percentile, show
from bench.rig import Rig, rig
from bench.upstream import MODEL

AIM = 1.05


async def ask(address: str, number: int, job_s: float) -> float:
    """One caller; returns when its answer was whole."""
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    prompt = f"[[n=2 first={job_s / 2:.4f} delay={job_s / 2:.4f}]] number {number} at {time.time()}"
    body = json.dumps({"model": MODEL, "prompt": prompt, "stream": False}).encode()
    writer.write(
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    if b" 200 " not in answer[:20] or b'"done":true' not in answer.replace(b" ", b""):
        raise SystemExit(f"not a measurement: {answer[:300]!r}")
    return time.perf_counter()


async def all_at_once(address: str, callers: int, job_s: float) -> list[float]:
    began = time.perf_counter()
    ends = await asyncio.gather(*(ask(address, number, job_s) for number in range(callers)))
    return [end - began for end in ends]


def start_double(running: Rig, slots: int) -> str:
    command = [sys.executable, "-m", "tests.fakes.ollama_double", "--listen", "127.0.0.1:0", "--model", MODEL]
    child = subprocess.Popen([*command, "--parallel", str(slots)], stdout=subprocess.PIPE)
    running.keep(child)
    assert child.stdout is not None
    return child.stdout.readline().decode().split()[-1].removeprefix("http://")


def figures(callers: int, slots: int, job_s: float, rounds: int) -> Figures:
    ideal_s = math.ceil(callers / slots) * job_s
    seen: dict[str, list[list[float]]] = {"Ollama directly": [], "through us": []}
    with rig() as running:
        upstream = start_double(running, slots)
        daemon = running.start_daemon("ours", upstream, slots=slots)
        addresses = {"Ollama directly": upstream, "through us": daemon.address}
        for address in addresses.values():
            asyncio.run(all_at_once(address, slots, job_s))  # the model is loaded
        before = cpu_ns(list(daemon.pids))
        for _ in range(rounds):
            for name, address in addresses.items():
                seen[name].append(asyncio.run(all_at_once(address, callers, job_s)))
        cpu_ms = (cpu_ns(list(daemon.pids)) - before) / 1e6 / (rounds * callers)
    found = {
        name: {
            "makespan_s": round(statistics.median(max(one) for one in windows), 3),
            "of_ideal": round(statistics.median(max(one) for one in windows) / ideal_s, 3),
            "wait_s_p50": round(statistics.median(percentile(one, 50) for one in windows), 2),
        }
        for name, windows in seen.items()
    }
    return {
        "callers": callers,
        "slots": slots,
        "ideal_s": ideal_s,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "cpu_ms_per_call": round(cpu_ms, 2),
        "ways": found,
        "within_aim": found["through us"]["of_ideal"] <= AIM,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--callers", type=int, default=131)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--job", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    found = figures(args.callers, args.slots, args.job, args.rounds)
    rows = [
        (name, f"{each['makespan_s']:.2f}", f"{each['of_ideal']:.3f}", f"{each['wait_s_p50']:.2f}")
        for name, each in found["ways"].items()
    ]
    title = f"{args.callers} at once on {args.slots} slots, ideal {found['ideal_s']:.2f} s, load {found['load']} (aim {AIM} x)"
    show(found, args.json, title, ("", "makespan s", "of the ideal", "p50 s"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
