"""Generations are never given twice; intents and verdicts outlive the supervisor; events come back in order."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.clock import VirtualClock
from supervisord_ai.errors import StoreFault
from supervisord_ai.store.disk import inline
from supervisord_ai.store.state import State
from tests.fakes.disk import FakeDisk


@asynccontextmanager
async def running(folder: Path, disk: FakeDisk | None = None) -> AsyncIterator[State]:
    state = State(folder, clock=VirtualClock(), cache_bytes=1_000_000, run_sync=inline, disk=disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        yield state
        nursery.cancel_scope.cancel()


async def test_a_generation_is_durable_before_it_is_given(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk) as state:
        assert await state.fleet.next_generation("opus-01", "d1") == 1
        cut = disk.after_power_cut(tmp_path / "journal.db", tmp_path / "cut")
        conn = sqlite3.connect(cut)
        assert conn.execute("SELECT name, generation FROM agents").fetchall() == [("opus-01", 1)]
        conn.close()


async def test_no_generation_is_given_twice(tmp_path: Path) -> None:
    given: list[int] = []

    async def ask(state: State) -> None:
        given.append(await state.fleet.next_generation("opus-01", "d"))

    for _ in range(2):
        async with running(tmp_path) as state, trio.open_nursery() as callers:
            for _ in range(3):
                callers.start_soon(ask, state)
    assert sorted(given) == [1, 2, 3, 4, 5, 6]


async def test_the_next_supervisor_knows_what_ran_and_why_it_was_to_end(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        generation = await state.fleet.next_generation("opus-01", "d1")
        await state.fleet.started("opus-01", generation, 4711, 99, "boot", "/fleet/opus-01", "tag")
        state.fleet.intent("opus-01", generation, "stop")
        await wait_all_tasks_blocked()
    async with running(tmp_path) as state:
        record = state.fleet.load()["opus-01"]
        assert (record.pid, record.start_ticks, record.boot_id, record.cgroup, record.run_tag) == (
            4711,
            99,
            "boot",
            "/fleet/opus-01",
            "tag",
        )
        assert (record.intent, record.verdict, record.ended_wall) == ("stop", None, None)


async def test_an_end_is_written_with_its_time_and_the_process_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as state:
        generation = await state.fleet.next_generation("opus-01", "d1")
        await state.fleet.started("opus-01", generation, 4711, 99, "boot", None, "tag")
        await state.fleet.ended("opus-01", generation, "crash:SEGV", "x" * 100_000)
    async with running(tmp_path) as state:
        record = state.fleet.load()["opus-01"]
        assert (record.verdict, record.pid) == ("crash:SEGV", None)
        assert record.ended_wall == pytest.approx(VirtualClock().wall())
        assert record.detail is not None
        assert len(record.detail) == 16_000
        assert await state.fleet.next_generation("opus-01", "d2") == 2
        again = state.fleet.load()["opus-01"]
        assert (again.restarts, again.verdict, again.intent, again.digest) == (1, None, None, "d2")


async def test_news_of_an_old_generation_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        await state.fleet.next_generation("opus-01", "d")
        await state.fleet.next_generation("opus-01", "d")
        await state.fleet.ended("opus-01", 1, "finished", "")
        state.fleet.intent("opus-01", 1, "stop")
        await state.fleet.started("opus-01", 1, 1, 1, "b", None, "t")
        state.fleet.intent("nobody", 1, "stop")
        record = state.fleet.load()["opus-01"]
        assert (record.verdict, record.intent, record.pid) == (None, None, None)


async def test_nothing_may_be_started_when_its_generation_cannot_be_written(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk) as state:
        disk.breaks()
        with pytest.raises(StoreFault):
            await state.fleet.next_generation("opus-01", "d")


async def test_events_come_back_in_order_and_numbers_only_grow(tmp_path: Path) -> None:
    async with running(tmp_path) as state:
        for n in range(5):
            state.events.note("died", agent=f"opus-0{n}", detail={"n": n, "text": "ü\n\x1b"})
        await wait_all_tasks_blocked()
        assert [(e.seq, e.agent, e.detail["n"]) for e in await state.events.past(2)] == [(4, "opus-03", 3), (5, "opus-04", 4)]
    async with running(tmp_path) as state:
        state.events.note("up", request_id="r1")
        await wait_all_tasks_blocked()
        assert [e.seq for e in await state.events.past(100)] == [1, 2, 3, 4, 5, 6]
        assert [e.seq for e in state.events.after(4, 100)] == [5, 6]
        assert state.events.after(5, 1)[0].detail == {}
        assert state.events.after(0, 6)[0].detail["text"] == "ü\n\x1b"


async def test_old_events_are_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    async with running(tmp_path) as state:
        for n in range(2500):
            state.events.note("old", detail={"n": n})
        await trio.sleep(100)
        state.events.note("young")
        await trio.sleep(1)
        assert await state.events.forget(clock.wall() - 50) == 2500
        assert [e.kind for e in state.events.after(0, 10)] == ["young"]
        assert await state.events.forget(clock.wall() + 50) == 1
        assert await state.events.forget(clock.wall() + 50) == 0
