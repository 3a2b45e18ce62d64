"""How much can two slots take, and what do agents wait? From a tenth of the capacity to twice of it, in virtual time.

    .venv/bin/python -m bench.capacity [--minutes 15] [--loads 10,25,50,75,90,100,125,150,200] [--seed 20261127] [--json]

The plan's own model: 36 opus and 95 sonnet agents, two slots, calls of a second on average (0.4 to 1.6 s), which is 120 answers
a minute. Requests come at random (Poisson) over all agents, at a share of that; each has a prompt of its own, so that no cache
helps. The real gateway, journal and queue before the double of Ollama; the clock is a mock one, so the machine this runs on is
not in the figures. A refused request was told when to come again, and does not.

The promise: p95 below 5 s at normal load. Normal is half of the capacity: then the agents ask for 60 answers a minute.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from bench.report import Figures, arguments, percentile, show
from tests.fakes.disk import FakeDisk
from tests.fakes.ollama_double import Double, DoubleOptions, running
from tests.shell.gateway_bench import OWNER, Bench, agent, life, roster_of

OPUS, SONNET = 36, 95
SLOTS = 2
CAPACITY_PER_MIN = 120.0
TOKEN_S, TOKENS = 0.04, (10, 40)  # 0.4 to 1.6 s, a second on average
NORMAL, LIMIT_P95_S = 50, 5.0


async def live(bench: Bench, name: str, at: float, prompt: str, seen: Figures) -> None:
    await trio.sleep_until(at)
    answer = await bench.ask(agent(name), prompt, stream=False)
    if answer.status == 200:
        seen["waits"].append(answer.at - at)
        seen[name[0]].append(answer.at - at)
    else:
        seen["refused"] += 1


async def run(load: int, minutes: float, seed: str) -> Figures:
    dice = random.Random(f"{seed} {load}")
    seen: Figures = {"waits": [], "refused": 0, "o": [], "s": []}
    roster = roster_of(OPUS, SONNET)
    names = list(roster.agents)
    with tempfile.TemporaryDirectory(prefix="ai-bench-capacity-") as folder:
        double = Double(options=DoubleOptions(parallel=SLOTS))
        async with (
            running(double) as served,
            life(Path(folder), served, roster=roster, slots=SLOTS, disk=FakeDisk()) as bench,
        ):
            await bench.ask(OWNER, "[[n=1]]")  # the model is loaded
            began = at = trio.current_time()
            async with trio.open_nursery() as nursery:
                while True:
                    at += dice.expovariate(CAPACITY_PER_MIN * load / 100 / 60)
                    if at > began + minutes * 60:
                        break
                    prompt = f"[[n={dice.randint(*TOKENS)} first={TOKEN_S} delay={TOKEN_S}]] {at}"
                    nursery.start_soon(partial(live, bench, dice.choice(names), at, prompt, seen))
            spent_s = trio.current_time() - began
    waits = seen["waits"]
    return {
        "asked": len(waits) + seen["refused"],
        "answers_per_min": round(len(waits) / spent_s * 60, 1),
        "refused": seen["refused"],
        "p50_s": round(percentile(waits, 50), 2),
        "p95_s": round(percentile(waits, 95), 2),
        "opus_p95_s": round(percentile(seen["o"], 95), 2),
        "sonnet_p95_s": round(percentile(seen["s"], 95), 2),
    }


def figures(loads: Sequence[int], minutes: float, seed: str) -> Figures:
    logging.disable(logging.WARNING)
    found: Figures = {}
    for load in loads:
        found[str(load)] = trio.run(run, load, minutes, seed, clock=MockClock(autojump_threshold=0))
        print(f"{load} %: {found[str(load)]}", file=sys.stderr)
    normal = found.get(str(NORMAL))
    within = normal is None or normal["p95_s"] < LIMIT_P95_S
    return {"seed": seed, "minutes": minutes, "capacity_per_min": CAPACITY_PER_MIN, "loads": found, "within_aim": within}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--loads", default="10,25,50,75,90,100,125,150,200")
    parser.add_argument("--seed", default="20261127")
    args = parser.parse_args(argv)
    found = figures([int(load) for load in args.loads.split(",")], args.minutes, args.seed)
    rows = [
        (f"{load} %", f"{each['answers_per_min']:.0f}", f"{each['p50_s']:.1f}", f"{each['p95_s']:.1f}",
         f"{each['opus_p95_s']:.1f}", f"{each['sonnet_p95_s']:.1f}", f"{each['refused']} of {each['asked']}")
        for load, each in found["loads"].items()
    ]  # fmt: skip
    aim = f"p95 < {LIMIT_P95_S:.0f} s at {NORMAL} %"
    title = f"131 agents, 2 slots of 60 calls a minute, {args.minutes:.0f} virtual minutes (aim: {aim})"
    show(found, args.json, title, ("load", "answers/min", "p50 s", "p95 s", "opus p95", "sonnet p95", "refused"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
