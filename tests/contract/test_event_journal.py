"""One suite for the journal of events, in memory and on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.clock import VirtualClock
from supervisord_ai.store import journal as module
from supervisord_ai.store.disk import inline
from supervisord_ai.store.journal import EventJournal
from supervisord_ai.store.state import State
from tests.fakes.disk import FakeDisk
from tests.fakes.event_journal import FakeEventJournal

Journal = EventJournal | FakeEventJournal


@pytest.fixture(params=["in memory", "on disk"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Journal]:
    if request.param == "in memory":
        yield FakeEventJournal()
        return
    state = State(tmp_path, clock=VirtualClock(epoch=1000.0), cache_bytes=1_000_000, run_sync=inline, disk=FakeDisk())
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        yield state.events
        nursery.cancel_scope.cancel()


async def written(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.note("agent.ended" if number % 2 else "agentless", f"a-{number % 3}", detail={"n": number})
    await journal.wait_after(0)


async def test_events_are_numbered_in_their_order(journal: Journal) -> None:
    assert (journal.last_seq, journal.after(0, 10), journal.last("x")) == (0, [], None)
    journal.note("daemon.started", detail={"pid": 7})
    journal.note("request.lost", "a-1", "r-1")
    await journal.wait_after(0)
    first, second = journal.after(0, 10)
    assert (first.seq, first.kind, first.agent, first.request_id, first.detail) == (1, "daemon.started", None, None, {"pid": 7})
    assert (second.seq, second.kind, second.agent, second.request_id, second.detail) == (2, "request.lost", "a-1", "r-1", {})
    assert journal.last_seq == 2
    assert journal.last("daemon.started") == first
    assert journal.after(1, 10) == [second]
    assert journal.after(0, 1) == [first]


async def test_who_waits_for_news_is_told_when_they_are_written(journal: Journal) -> None:
    told: list[int] = []

    async def wait() -> None:
        await journal.wait_after(0)
        told.append(journal.after(0, 10)[-1].seq)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert told == []
        journal.note("one")
    assert told == [1]


async def test_the_past_is_found_by_count_time_agent_and_kind(journal: Journal) -> None:
    await written(journal, 12)
    assert [row.seq for row in await journal.past(3)] == [10, 11, 12]
    assert [row.seq for row in await journal.past(100, agent="a-1")] == [2, 5, 8, 11]
    assert [row.seq for row in await journal.past(100, kind="agent")] == [2, 4, 6, 8, 10, 12]  # not "agentless"
    assert [row.seq for row in await journal.past(2, kind="agent.ended", agent="a-1")] == [2, 8]
    assert [row.seq for row in await journal.past(100, since_wall=1e9)] == []
    assert len(await journal.past(100, since_wall=900.0)) == 12


async def test_what_is_rare_is_found_although_it_is_looked_for_in_steps(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOKED_AT_ONCE", 5)
    journal.note("rare")
    await written(journal, 40)
    assert [row.seq for row in await journal.past(10, kind="rare")] == [1]
    assert [row.seq for row in await journal.past(7)] == [35, 36, 37, 38, 39, 40, 41]
