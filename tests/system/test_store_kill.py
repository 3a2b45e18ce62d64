"""`kill -9` in the middle of writing, again and again on the same files: nothing promised is lost, nothing ended comes back."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from supervisord_ai.clock import SystemClock
from supervisord_ai.core.request_state import RowState
from supervisord_ai.store.disk import inline
from supervisord_ai.store.state import State
from tests.system.store_producers import body_of

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))


def run_and_kill(folder: Path, name: str, durability: str, promises: int) -> list[list[str]]:
    """Return what one process was promised before it was killed, right after the n-th promise."""
    argv = [sys.executable, "-m", "tests.system.store_producers", str(folder), name, durability]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as child:
        assert child.stdout is not None
        seen = [child.stdout.readline() for _ in range(promises)]
        child.send_signal(signal.SIGKILL)
        # What it wrote before it died was promised as well. A last line may be cut: it is none.
        seen += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
    return [line.decode().split() for line in seen if line.endswith(b"\n")]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_nothing_promised_is_lost_and_nothing_ended_comes_back(tmp_path: Path, durability: str) -> None:
    dice = random.Random(20)
    accepted: set[str] = set()
    done: set[str] = set()
    generations: dict[str, int] = {}
    for round_number in range(ROUNDS):
        for what, *rest in run_and_kill(tmp_path, f"r{round_number}", durability, dice.randrange(50, 3000)):
            match what:
                case "accepted":
                    accepted.add(rest[0])
                case "done":
                    done.add(rest[0])
                case "generation":
                    generations[rest[0]] = max(generations.get(rest[0], 0), int(rest[1]))
        for name in ("journal.db", "cache.db"):
            conn = sqlite3.connect(tmp_path / name)
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            conn.close()
        trio.run(check, tmp_path, accepted, done, generations)
    assert len(accepted) > 50 * ROUNDS
    assert done


async def check(folder: Path, accepted: set[str], done: set[str], generations: dict[str, int]) -> None:
    state = State(folder, clock=SystemClock(), cache_bytes=300_000, run_sync=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        rows = {row.id: row for row in state.requests.recover()}
        ended = dict(state.database.read("SELECT id, state FROM requests WHERE ended_wall IS NOT NULL"))
        assert not accepted - rows.keys() - ended.keys(), "lost"
        assert not done & rows.keys(), "come back"
        assert {ended[rid] for rid in done} <= {RowState.DONE}
        for rid in done:
            answer = state.requests.answer(rid)
            assert answer is not None
            assert answer.body == body_of(rid)
        for rid, row in rows.items():
            assert row.body == body_of(rid, len(row.body))
            assert hashlib.sha256(row.body).digest() == row.digest
        known = state.fleet.load()
        assert all(known[agent].generation >= generation for agent, generation in generations.items())
        hits = 0
        for rid in done:
            cached = state.cache.get(hashlib.sha256(rid.encode()).digest())
            assert cached is None or cached.answer.body == body_of(rid), "half an answer"
            hits += cached is not None
        assert hits or not done
        assert state.cache.statistics().faults == 0
        nursery.cancel_scope.cancel()
