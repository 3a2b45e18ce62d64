"""How many requests a second does the journal take from 131 producers, and what does one wait for its acknowledgement?

    .venv/bin/python -m bench.journal [--producers 131] [--seconds 3] [--rounds 3] [--json]

`store/` alone, on real files in one folder: each producer has a request accepted, claimed and answered (1 KB in, 1 KB out), one
after the other, for ever. With "power" every acknowledgement waits for fdatasync, with "process" for the commit. Beside them, in
the same run and on the same disk, the same three writes as one transaction each, synchronous=FULL: what a queue without group
commit does. The disk decides the figures; the ratio is ours.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from bench.report import Figures, arguments, percentile, show
from supervisord_ai.clock import SystemClock
from supervisord_ai.store.database import Durability
from supervisord_ai.store.rows import Answer, RequestRow
from supervisord_ai.store.state import State

BODY = b"x" * 1000
LIMIT_RATIO = 2.0
"""Group commit with fdatasync over one transaction a write: below this the grouping does not work."""


def row(number: int, producer: int) -> RequestRow:
    return RequestRow(
        id=f"{number:032x}",
        agent=f"agent-{producer:03}",
        agent_class="sonnet",
        generation=1,
        key=None,
        digest=number.to_bytes(32, "big"),
        method="POST",
        path="/api/generate",
        face="ollama",
        asked_stream=False,
        body=BODY,
        priority=5,
        accepted_wall=time.time(),
        deadline_wall=time.time() + 240,
        is_async=False,
    )


async def produce(folder: Path, durability: Durability, producers: int, seconds: float) -> Figures:
    """Requests through the store for so long."""
    state = State(folder, clock=SystemClock(), durability=durability, cache_bytes=1_000_000)
    numbers, waits_s, done = itertools.count(1), [], 0

    async def one(producer: int) -> None:
        nonlocal done
        while True:
            made = row(next(numbers), producer)
            began_at = time.perf_counter()
            await state.requests.accept(made)
            waits_s.append(time.perf_counter() - began_at)
            await state.requests.claim(made.id, 1)
            await state.requests.finish(made.id, Answer(200, "application/json", BODY, "raw", False, time.time()))
            done += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        cpu_s, began_at = time.process_time(), time.perf_counter()
        for producer in range(producers):
            nursery.start_soon(one, producer)
        await trio.sleep(seconds)
        spent_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_s
        nursery.cancel_scope.cancel()
    return said(done, spent_s, cpu_s, waits_s)


def said(done: int, spent_s: float, cpu_s: float, waits_s: Sequence[float]) -> Figures:
    return {
        "requests": done,
        "per_s": round(done / spent_s, 1),
        "cpu_us_per_request": round(cpu_s / max(done, 1) * 1e6, 1),
        "acknowledged_ms_p50": round(percentile(waits_s, 50) * 1000, 2),
        "acknowledged_ms_p99": round(percentile(waits_s, 99) * 1000, 2),
    }


def one_transaction_each(folder: Path, seconds: float) -> Figures:
    """What 131 producers get of a database that commits each write by itself: they queue for it, so one producer shows it."""
    connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE requests(seq INTEGER PRIMARY KEY, id TEXT UNIQUE, agent TEXT, state TEXT, body BLOB, answer BLOB);"
    )
    waits_s, done = [], 0
    cpu_s, began_at = time.process_time(), time.perf_counter()
    while (spent_s := time.perf_counter() - began_at) < seconds:
        name, at = f"{done:032x}", time.perf_counter()
        connection.execute("INSERT INTO requests(id, agent, state, body) VALUES (?, 'agent', 'queued', ?)", (name, BODY))
        waits_s.append(time.perf_counter() - at)
        connection.execute("UPDATE requests SET state = 'running' WHERE id = ?", (name,))
        connection.execute("UPDATE requests SET state = 'done', answer = ? WHERE id = ?", (BODY, name))
        done += 1
    connection.close()
    return said(done, spent_s, time.process_time() - cpu_s, waits_s)


def figures(producers: int, seconds: float, rounds: int) -> Figures:
    seen: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="ai-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        for number in range(rounds):
            for durability in (Durability.POWER, Durability.PROCESS):
                folder = Path(name, f"{durability.value}-{number}")
                folder.mkdir()
                seen.setdefault(durability.value, []).append(trio.run(produce, folder, durability, producers, seconds))
            folder = Path(name, f"plain-{number}")
            folder.mkdir()
            seen.setdefault("one transaction each", []).append(one_transaction_each(folder, seconds))
    found = {
        kind: {key: statistics.median(window[key] for window in windows) for key in windows[0]} for kind, windows in seen.items()
    }
    ratio = found["power"]["per_s"] / found["one transaction each"]["per_s"]
    return {"producers": producers, "durability": found, "ratio": round(ratio, 1), "within_limit": ratio >= LIMIT_RATIO}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--producers", type=int, default=131)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    found = figures(args.producers, args.seconds, args.rounds)
    rows = [
        (kind, f"{each['per_s']:.0f}", f"{each['cpu_us_per_request']:.0f}", f"{each['acknowledged_ms_p50']:.1f}",
         f"{each['acknowledged_ms_p99']:.1f}")
        for kind, each in found["durability"].items()
    ]  # fmt: skip
    title = f"{args.producers} producers: accept, claim, answer; power-safe {found['ratio']} x one transaction each"
    show(found, args.json, title, ("", "requests/s", "CPU us", "ack p50 ms", "ack p99 ms"), rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
