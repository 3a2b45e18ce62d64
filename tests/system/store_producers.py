"""A process of 20 producers on one state folder, to be killed: it prints each thing it was promised, after the promise.

Run as `python -m tests.system.store_producers FOLDER ROUND DURABILITY`. A line of stdout is `accepted ID`, `done ID` or
`generation N`, each written by one write(2).
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import trio

from supervisord_ai.clock import SystemClock
from supervisord_ai.store.database import Durability
from supervisord_ai.store.rows import Answer, CacheMeta, RequestRow
from supervisord_ai.store.state import State

PRODUCERS = 20


def body_of(name: str, size: int = 1000) -> bytes:
    """The one body that belongs to a name, so that a reader sees whether it is whole."""
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def produce(state: State, name: str, clock: SystemClock) -> None:
    agent = f"agent-{name}"
    number = 0
    while True:
        number += 1
        rid = f"{name}-{number}"
        # Now and then one that is large enough to be committed in a thread.
        body = body_of(rid, 600_000 if number % 50 == 0 else 1000)
        row = RequestRow(
            id=rid,
            agent=agent,
            agent_class="opus",
            generation=1,
            key=rid,
            digest=hashlib.sha256(body).digest(),
            method="POST",
            path="/api/chat",
            face="ollama",
            asked_stream=True,
            body=body,
            priority=3,
            accepted_wall=clock.wall(),
            deadline_wall=clock.wall() + 240,
            is_async=False,
        )
        await state.requests.accept(row)
        say(f"accepted {rid}")
        if number % 3 == 0:
            await state.requests.claim(rid, 1)
            answer = Answer(200, "text/plain", body_of(rid), "raw", cut=False, finished_wall=clock.wall())
            await state.requests.finish(rid, answer)
            say(f"done {rid}")
            key = hashlib.sha256(rid.encode()).digest()
            state.cache.put(key, answer, CacheMeta("m", rid, "shared", clock.wall() + 3600))
        elif number % 7 == 0:
            state.requests.cancel(rid, "left")
        if number % 10 == 0:
            say(f"generation {agent} {await state.fleet.next_generation(agent, 'd')}")


async def main(folder: Path, round_name: str, durability: Durability) -> None:
    clock = SystemClock()
    state = State(folder, clock=clock, durability=durability, cache_bytes=300_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        say("started")
        for producer in range(PRODUCERS):
            nursery.start_soon(produce, state, f"{round_name}-{producer}", clock)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2], Durability(sys.argv[3]))
