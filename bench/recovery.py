"""The daemon was killed with 50,000 accepted requests in its journal: how long until it serves again, and at what size?

    .venv/bin/python -m bench.recovery [--rows 50000] [--json]

The rows are written as the daemon writes them, asynchronous requests of the owner with bodies of 1 KB, none answered yet. Then
a real daemon is started on them, and one on an empty journal, before an engine that answers everything: measured is the time from
the start of the process until a caller on `llm.sock` has an answer, which is after all of them are back in the queue, and the
resident memory then. Beside it, what reading the same rows costs SQLite alone.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import trio

from bench.idle import status
from bench.journal import row
from bench.report import Figures, arguments, show
from bench.rig import Rig, rig
from bench.upstream import MODEL
from supervisord_ai.clock import SystemClock
from supervisord_ai.store.database import Durability
from supervisord_ai.store.state import State

LIMIT_S = 30.0
WITHIN_S = 300.0


async def write(folder: Path, rows: int) -> None:
    """A journal with so many accepted requests."""
    state = State(folder, clock=SystemClock(), durability=Durability.PROCESS, cache_bytes=1_000_000)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)

        async def accept(start: int) -> None:
            for number in range(start, rows, 200):
                body = json.dumps({"model": MODEL, "prompt": f"number {number} " + "x" * 900}).encode()
                made = row(number + 1, 0)
                await state.requests.accept(
                    replace(made, agent="owner", agent_class="owner", generation=0, is_async=True, body=body,
                            deadline_wall=made.accepted_wall + 86400.0)
                )  # fmt: skip

        async with trio.open_nursery() as producers:
            for start in range(200):
                producers.start_soon(accept, start)
        nursery.cancel_scope.cancel()


def read_alone(folder: Path) -> float:
    connection = sqlite3.connect(folder / "journal.db")
    began = time.perf_counter()
    found = connection.execute("SELECT * FROM requests r JOIN bodies b ON b.seq = r.seq ORDER BY r.seq").fetchall()
    connection.close()
    assert found
    return time.perf_counter() - began


def start(running: Rig, name: str, upstream: str, rows: int) -> Figures:
    read_s = began = 0.0

    def fill(state_dir: Path) -> None:
        nonlocal read_s, began
        if rows:
            trio.run(partial(write, state_dir, rows))
            read_s = read_alone(state_dir)
        began = time.perf_counter()

    candidate = running.start_daemon(name, upstream, before=fill)
    with socket.socket(socket.AF_UNIX) as caller:  # it is accepted by the kernel before the daemon serves
        caller.settimeout(WITHIN_S)
        caller.connect(candidate.address)
        caller.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert caller.recv(1000).startswith(b"HTTP/1.1 200")
    serves_after_s = time.perf_counter() - began
    control = Path(candidate.address).parent / "control.sock"
    queued = 0
    while rows and time.perf_counter() - began < WITHIN_S:
        told = status(control)
        queued = told["queue"]["queued"] if told is not None else 0
        if queued:  # they are put back before anybody is served
            break
        time.sleep(0.2)
    return {
        "rows": rows,
        "serves_after_s": round(serves_after_s, 2),
        "queued": queued,
        "rss_mb": round(psutil.Process(candidate.pids[0]).memory_info().rss / 1e6, 1),
        "sqlite_reads_them_in_s": round(read_s, 2),
    }


def figures(rows: int) -> Figures:
    with rig() as running:
        upstream = running.start_upstream()
        found = {"empty": start(running, "empty", upstream, 0), "journalled": start(running, "journalled", upstream, rows)}
    return found | {
        "load": round(os.getloadavg()[0], 1),
        "within_aim": found["journalled"]["serves_after_s"] <= LIMIT_S,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    args = parser.parse_args(argv)
    found = figures(args.rows)
    rows = [
        (name, f"{each['rows']}", f"{each['serves_after_s']:.2f}", f"{each['queued']}", f"{each['rss_mb']:.0f}",
         f"{each['sqlite_reads_them_in_s']:.2f}")
        for name, each in found.items()
        if isinstance(each, dict)
    ]  # fmt: skip
    title = f"a start on a journal, load {found['load']}"
    show(found, args.json, title, ("journal", "rows", "serves after s", "queued", "RSS MB", "SQLite alone s"), rows)
    return 0 if found["within_aim"] else 1


if __name__ == "__main__":
    sys.exit(main())
