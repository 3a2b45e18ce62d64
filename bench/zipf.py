"""What is the cache worth to 131 agents that ask what agents ask: a few things often, most things seldom?

    .venv/bin/python -m bench.zipf [--minutes 30] [--exponent 1.0] [--questions 5000] [--seed 20261127] [--json]

The whole gateway in virtual time, before the double of Ollama with two slots. Each agent thinks, asks, reads, thinks again. What
it asks is drawn by Zipf's law from the same questions: six of ten are answers at temperature 0, three are embeddings, one is a
sample at temperature 0.8, which is nobody else's. Four times the same: without a cache (every request says `no-store`, so nothing
is shared on its way either), with the shipped sizes, with 100 KB a tier (a thirteenth of what is kept), and without bounds.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from bench.report import Figures, arguments, percentile, show
from supervisord_ai.core.policies import CachePolicy
from tests.fakes.disk import FakeDisk
from tests.fakes.ollama_double import Double, DoubleOptions, running
from tests.shell.gateway_bench import MODEL, Bench, agent, life, roster_of

OPUS, SONNET = 36, 95
THINK_S = 15.0
TOKENS, TOKEN_S = (20, 80), 0.04
MB = 1_000_000
PLENTY = 10**12
VARIANTS: dict[str, tuple[CachePolicy, int, bool]] = {
    "no cache": (CachePolicy(), 50 * MB, False),
    "as shipped": (CachePolicy(), 1000 * MB, True),
    "100 KB only": (CachePolicy(l1_per_agent_bytes=20_000, l1_total_bytes=100_000), 100_000, True),
    "without bounds": (CachePolicy(ttl_s=1e9, l1_per_agent_bytes=PLENTY, l1_total_bytes=PLENTY), PLENTY, True),
}


class Questions:
    """What is asked, drawn by Zipf's law: the first is asked so many times as often as the n-th."""

    def __init__(self, count: int, exponent: float) -> None:
        self._sums = list(itertools.accumulate(1 / rank**exponent for rank in range(1, count + 1)))

    def draw(self, dice: random.Random) -> tuple[str, bytes]:
        """A path and a body."""
        number = bisect(self._sums, dice.random() * self._sums[-1])
        kind = dice.choices(("cold", "embed", "warm"), (6, 3, 1))[0]
        if kind == "embed":
            return "/api/embed", json.dumps({"model": "nomic-embed-text", "input": f"text number {number} of many"}).encode()
        tokens = random.Random(number).randrange(*TOKENS)  # the same question has the same answer
        body: dict[str, Any] = {"model": MODEL, "prompt": f"[[n={tokens} delay={TOKEN_S}]] question {number}", "stream": False}
        body["options"] = {"temperature": 0 if kind == "cold" else 0.8}
        return "/api/generate", json.dumps(body).encode()


async def live(bench: Bench, name: str, questions: Questions, seed: str, seen: Figures, *, is_cached: bool) -> None:
    dice = random.Random(f"{seed} {name}")
    headers = {} if is_cached else {"Cache-Control": "no-store"}
    while True:
        await trio.sleep(dice.expovariate(1 / THINK_S))
        path, body = questions.draw(dice)
        asked_at = trio.current_time()
        answer = await bench.call(agent(name), "POST", path, body, headers)
        if answer.status == 200:
            seen["waits"].append(trio.current_time() - asked_at)
        else:
            seen["refused"] += 1
            await trio.sleep(float(answer.headers.get("Retry-After") or 1))


async def run(name: str, minutes: float, questions: Questions, seed: str) -> Figures:
    policy, l2_bytes, is_cached = VARIANTS[name]
    seen: Figures = {"waits": [], "refused": 0}
    with tempfile.TemporaryDirectory(prefix="ai-bench-zipf-") as folder:
        double = Double(options=DoubleOptions(embed_s=0.1))
        async with (
            running(double) as served,
            life(
                Path(folder), served, roster=roster_of(OPUS, SONNET), cache=policy, cache_bytes=l2_bytes, disk=FakeDisk()
            ) as bench,
            trio.open_nursery() as nursery,
        ):
            for agent_class, count in (("opus", OPUS), ("sonnet", SONNET)):
                for number in range(1, count + 1):
                    who = f"{agent_class}-{number:02}"
                    nursery.start_soon(partial(live, is_cached=is_cached), bench, who, questions, seed, seen)
            await trio.sleep(minutes * 60)
            view, told = bench.gateway.statistics(), bench.gateway.cache_report()
            nursery.cancel_scope.cancel()
    cache, waits = view.cache, seen["waits"]
    looked = cache.hits + cache.misses
    return {
        "answers": len(waits),
        "answers_per_min": round(len(waits) / minutes, 1),
        "refused": seen["refused"],
        "hit_rate": round(cache.hits / looked, 4) if looked and is_cached else 0.0,
        "hits": {"l1": cache.l1.hits, "l2": cache.l2.hits},
        "kept_bytes": {"l1": cache.l1.bytes, "l2": cache.l2.bytes},
        "evicted": {"l1": cache.l1.evicted, "l2": cache.l2.evicted},
        "saved_slot_s": round(cache.saved_s, 1) if is_cached else 0.0,
        "shared_on_the_way": view.totals.coalesced,
        "wait_s_p50": round(percentile(waits, 50), 2),
        "wait_s_p95": round(percentile(waits, 95), 2),
        "advice": told.advice,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--exponent", type=float, default=1.0)
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--seed", default="20261127")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    questions = Questions(args.questions, args.exponent)
    found: Figures = {"seed": args.seed, "minutes": args.minutes, "exponent": args.exponent, "questions": args.questions}
    for name in VARIANTS:
        began = time.monotonic()
        found[name] = trio.run(run, name, args.minutes, questions, args.seed, clock=MockClock(autojump_threshold=0))
        found[name]["real_s"] = round(time.monotonic() - began, 1)
        print(f"{name}: {found[name]['real_s']} s", file=sys.stderr)
    rows = [
        (name, f"{each['answers_per_min']:.0f}", f"{each['hit_rate']:.1%}", f"{each['saved_slot_s']:.0f}",
         str(each["shared_on_the_way"]), f"{each['wait_s_p50']:.1f}", f"{each['wait_s_p95']:.1f}", str(each["refused"]))
        for name in VARIANTS
        for each in [found[name]]
    ]  # fmt: skip
    title = f"131 agents, 2 slots, {args.minutes:.0f} virtual minutes, {args.questions} questions by Zipf {args.exponent}"
    heads = ("", "answers/min", "found", "saved slot-s", "shared", "wait p50", "p95 s", "refused")
    show(found, args.json, title, heads, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
