"""The journal of requests: forward only, found again, forgotten in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.request_state import RowState
from supervisord_ai.store.database import Durability
from supervisord_ai.store.disk import inline
from supervisord_ai.store.rows import Answer, RequestRow
from supervisord_ai.store.state import State
from supervisord_ai.store.writes import Unmatched

ROW = RequestRow(
    id="r1",
    agent="opus-01",
    agent_class="opus",
    generation=3,
    key="k1",
    digest=b"\x00\xffdigest",
    method="POST",
    path="/api/chat",
    face="ollama",
    asked_stream=True,
    body=b'{"model":"m"}\x00\xff',
    priority=3,
    accepted_wall=1000.5,
    deadline_wall=1240.5,
    is_async=False,
)
ANSWER = Answer(200, "application/x-ndjson", b'{"done":true}\n\x00\xff', "lines", cut=False, finished_wall=1010.0)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[State]:
    state = State(folder, clock=VirtualClock(), durability=Durability.POWER, cache_bytes=10_000_000, run_sync=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        yield state
        nursery.cancel_scope.cancel()


async def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, id="r2", key=None, body=b"", is_async=True, asked_stream=False)]
    async with running(tmp_path) as state:
        for row in rows:
            await state.requests.accept(row)
    async with running(tmp_path) as state:
        assert state.requests.recover() == rows
        assert state.requests.row("r2") == rows[1]
        assert state.requests.row("r3") is None


async def test_what_was_running_comes_back_as_running_with_its_attempt(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        for n in range(4):
            await state.requests.accept(replace(ROW, id=f"r{n}"))
        await state.requests.claim("r1", 1)
        await state.requests.claim("r2", 1)
        await state.requests.finish("r2", ANSWER)
        state.requests.cancel("r3", "the caller left")
        await wait_all_tasks_blocked()
    async with running(tmp_path) as state:
        assert [(r.id, r.state, r.attempt) for r in state.requests.recover()] == [
            ("r0", RowState.QUEUED, 0),
            ("r1", RowState.RUNNING, 1),
        ]
        await state.requests.claim("r1", 2)
        assert [(r.state, r.attempt) for r in state.requests.recover()] == [(RowState.QUEUED, 0), (RowState.RUNNING, 2)]


async def test_the_order_is_that_of_acceptance_also_across_restarts(tmp_path: Path) -> None:
    names = [f"r{n}" for n in range(300)]
    async with running(tmp_path) as state:
        async with trio.open_nursery() as callers:
            for name in names[:200]:
                callers.start_soon(state.requests.accept, replace(ROW, id=name))
        accepted = [r.id for r in state.requests.recover()]
    async with running(tmp_path) as state:
        for name in names[200:]:
            await state.requests.accept(replace(ROW, id=name))
        assert [r.id for r in state.requests.recover()] == accepted + names[200:]
        assert sorted(accepted) == sorted(names[:200])


async def test_an_answer_is_kept_and_the_body_let_go(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        await state.requests.accept(ROW)
        await state.requests.claim("r1", 1)
        assert state.requests.answer("r1") is None
        await state.requests.finish("r1", ANSWER)
        assert state.requests.answer("r1") == ANSWER
        assert state.requests.row("r1") == replace(ROW, state=RowState.DONE, attempt=1, body=b"")
        assert state.requests.recover() == []


async def test_a_late_answer_does_not_revive_a_row_whose_caller_left(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        await state.requests.accept(ROW)
        state.requests.cancel("r1", "left")
        await state.requests.finish("r1", ANSWER)
        row = state.requests.row("r1")
        assert row is not None
        assert (row.state, state.requests.answer("r1")) == (RowState.CANCELLED, None)
        with pytest.raises(Unmatched, match="no request r1 to claim"):
            await state.requests.claim("r1", 1)


async def test_a_leaver_does_not_take_an_answer_back(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        await state.requests.accept(ROW)
        await state.requests.finish("r1", ANSWER)
        state.requests.cancel("r1", "left")
        await state.requests.finish("r1", replace(ANSWER, body=b"another"))
        assert state.requests.answer("r1") == ANSWER


async def test_one_that_left_while_it_was_being_accepted_is_cancelled_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as callers:
                callers.start_soon(state.requests.accept, ROW)
                scope.cancel()
        state.requests.cancel("r1", "left")
        await wait_all_tasks_blocked()
        assert state.requests.recover() == []
        row = state.requests.row("r1")
        assert row is None or row.state is RowState.CANCELLED


async def test_found_by_key_or_else_by_digest_the_newest_that_is_not_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        find = state.requests.find
        for name, key, digest in (("r1", "k1", b"a"), ("r2", "k1", b"b"), ("r3", None, b"a"), ("r4", None, b"a")):
            await state.requests.accept(replace(ROW, id=name, key=key, digest=digest))
        await state.requests.accept(replace(ROW, id="other", agent="opus-02", digest=b"a"))
        state.requests.cancel("r4", "left")
        await state.requests.finish("r3", ANSWER)

        def found(**by: object) -> str | None:
            row = find("opus-01", **by)  # type: ignore[arg-type]
            return row.id if row is not None else None

        assert found(key="k1", digest=b"zzz") == "r2"
        assert found(key="k2", digest=b"a") is None
        assert found(key=None, digest=b"a") == "r3"
        assert found(key=None, digest=b"c") is None
        other = find("opus-02", key=None, digest=b"a")
        assert other is not None
        assert other.id == "other"
        assert find("opus-03", key="k1", digest=b"a") is None


async def test_only_what_has_ended_long_ago_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    async with running(tmp_path) as state:
        for n in range(1300):
            state_row = replace(ROW, id=f"r{n}")
            if n % 100 == 0:
                await state.requests.accept(state_row)
            else:
                with trio.CancelScope():
                    await state.requests.accept(state_row)
        for n in range(1200):
            if n % 2:
                state.requests.cancel(f"r{n}", "left")
            else:
                await state.requests.finish(f"r{n}", replace(ANSWER, finished_wall=clock.wall()))
        await trio.sleep(700)
        await state.requests.finish("r1200", replace(ANSWER, finished_wall=clock.wall()))
        assert await state.requests.forget(clock.wall() - 600) == 1200
        assert await state.requests.forget(clock.wall() - 600) == 0
        seen = state.statistics().requests
        assert (seen.queued, seen.running, seen.done, seen.cancelled) == (99, 0, 1, 0)
        assert state.database.read("SELECT count(*) FROM bodies") == [(99,)]
        assert state.database.read("SELECT count(*) FROM answers") == [(1,)]


async def test_forgetting_gives_the_room_back(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        for n in range(20):
            await state.requests.accept(replace(ROW, id=f"r{n}", body=b"x" * 200_000))
            await state.requests.finish(f"r{n}", replace(ANSWER, body=b"y" * 200_000, finished_wall=1.0))
        (before,) = state.database.read("PRAGMA page_count")[0]
        assert await state.requests.forget(2.0) == 20
        (pages,) = state.database.read("PRAGMA page_count")[0]
        assert pages < before - 900
