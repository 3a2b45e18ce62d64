"""What does one agent that floods cost the others, and who is more urgent than the rest: how long does he wait? In virtual time.

    .venv/bin/python -m bench.fairness [--flood 300] [--minutes 10] [--json]

131 agents, two slots, a second a call, the double of Ollama below; once asked directly, once through the real gateway.
Flood: one agent puts `--flood` requests at once, then each of the other 130 asks once. Urgent: all 95 sonnet agents ask again as
soon as they are answered, and an opus agent asks 20 s after each of its answers; two levels of priority are 30 s of age, so it
passes whoever has waited less than that. Ollama itself serves in the order of arrival and knows nobody.

The aim: a flooder costs the other 130 one turn a slot: all of them have their answer within 67 s, where 65 s is the ideal.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from bench.report import Figures, arguments, percentile, show
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.ollama.client import OllamaClient
from tests.fakes.disk import FakeDisk
from tests.fakes.ollama_double import Double, DoubleOptions, running
from tests.shell.gateway_bench import MODEL, OWNER, agent, life, roster_of

OPUS, SONNET, SLOTS = 36, 95, 2
JOB_S = 1.0
LONG = QueuePolicy(deadline_s=3000.0, memory_max=10_000)
Ask = Callable[[str, str], Awaitable[None]]


@asynccontextmanager
async def through_us() -> AsyncIterator[Ask]:
    roster = roster_of(OPUS, SONNET, max_queued=1000)
    with tempfile.TemporaryDirectory(prefix="ai-bench-fairness-") as folder:
        async with (
            running(Double(options=DoubleOptions(parallel=SLOTS))) as double,
            life(Path(folder), double, roster=roster, queue=LONG, slots=SLOTS, disk=FakeDisk()) as bench,
        ):
            await bench.ask(OWNER, "[[n=1]]")  # the model is loaded

            async def ask(name: str, prompt: str) -> None:
                answer = await bench.ask(agent(name), prompt, stream=False)
                assert answer.status == 200, answer.body

            yield ask


@asynccontextmanager
async def directly() -> AsyncIterator[Ask]:
    async with running(Double(options=DoubleOptions(parallel=SLOTS))) as double:

        async def ask(_name: str, prompt: str) -> None:
            client = OllamaClient("http://double", dial=double.dial)
            body = json.dumps({"model": MODEL, "prompt": prompt, "stream": False}).encode()
            async with client.open("POST", "/api/generate", body=body) as reply:
                while await reply.next_chunk() is not None:
                    pass
            await client.aclose()

        await ask("", "[[n=1]]")
        yield ask


async def timed(ask: Ask, name: str, waits: list[float]) -> None:
    began = trio.current_time()
    await ask(name, f"[[n=2 first={JOB_S / 2} delay={JOB_S / 2}]] {name} {began}")
    waits.append(trio.current_time() - began)


async def flood(ask: Ask, size: int, _minutes: float) -> list[float]:
    """What the other 130 waited."""
    names = list(roster_of(OPUS, SONNET).agents)
    waits: list[float] = []
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as others:
            for number in range(size):
                nursery.start_soon(ask, names[-1], f"[[n=2 first={JOB_S / 2} delay={JOB_S / 2}]] flood {number}")
            await trio.sleep(0.1)
            for name in names[:-1]:
                others.start_soon(timed, ask, name, waits)
        nursery.cancel_scope.cancel()
    return waits


async def urgent(ask: Ask, _size: int, minutes: float) -> list[float]:
    """What the opus agent waited."""
    waits: list[float] = []

    async def again(name: str) -> None:
        while True:
            await timed(ask, name, [])

    async with trio.open_nursery() as nursery:
        for number in range(1, SONNET + 1):
            nursery.start_soon(again, f"sonnet-{number:02}")
        await trio.sleep(60)
        until = trio.current_time() + minutes * 60
        while trio.current_time() < until:
            await timed(ask, "opus-01", waits)
            await trio.sleep(20)
        nursery.cancel_scope.cancel()
    return waits


SCENES = {"flood": flood, "urgent": urgent}
WAYS = {"Ollama directly": directly, "through us": through_us}


async def run(scene: str, way: str, size: int, minutes: float) -> Figures:
    async with WAYS[way]() as ask:
        waits = await SCENES[scene](ask, size, minutes)
    return {"asked": len(waits), "p50_s": percentile(waits, 50), "p95_s": percentile(waits, 95), "most_s": max(waits)}


def figures(size: int, minutes: float) -> Figures:
    logging.disable(logging.WARNING)
    found: Figures = {
        scene: {way: trio.run(partial(run, scene, way, size, minutes), clock=MockClock(autojump_threshold=0)) for way in WAYS}
        for scene in SCENES
    }
    ideal_s = (OPUS + SONNET - 1) / SLOTS * JOB_S
    limit_s = ideal_s + SLOTS * JOB_S
    return found | {"flood_limit_s": limit_s, "within_aim": found["flood"]["through us"]["most_s"] <= limit_s}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--flood", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args(argv)
    found = figures(args.flood, args.minutes)
    rows = [
        (f"{scene}: {way}", str(each["asked"]), f"{each['p50_s']:.1f}", f"{each['p95_s']:.1f}", f"{each['most_s']:.1f}")
        for scene in SCENES
        for way, each in found[scene].items()
    ]
    title = f"131 agents, {SLOTS} slots, {JOB_S:.0f} s a call: others behind {args.flood} of one, and an opus behind 95 sonnets"
    show(found, args.json, title, ("", "asked", "p50 s", "p95 s", "most s"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
