"""One suite for the fleet's journal, in memory and on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.agents.generation import Journal
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.adoption import Baseline, Standing
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec
from supervisord_ai.store.disk import inline
from supervisord_ai.store.state import State
from tests.fakes.disk import FakeDisk
from tests.fakes.fleet_journal import MemoryJournal


@pytest.fixture(params=["in memory", "on disk"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Journal]:
    if request.param == "in memory":
        yield MemoryJournal()
        return
    state = State(tmp_path, clock=VirtualClock(), cache_bytes=1_000_000, run_sync=inline, disk=FakeDisk())
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        yield state.fleet
        nursery.cancel_scope.cancel()


async def test_a_generation_goes_from_its_number_to_its_verdict(journal: Journal) -> None:
    assert journal.load() == {}
    assert await journal.next_generation("one", "digest") == 1
    begun = journal.load()["one"]
    assert (begun.generation, begun.digest, begun.pid, begun.run_tag, begun.ended_wall) == (1, "digest", None, None, None)
    await journal.started("one", 1, 4711, 99, "boot", "v1\t/group", "one.1.tag")
    running = journal.load()["one"]
    assert (running.pid, running.start_ticks, running.boot_id) == (4711, 99, "boot")
    assert (running.cgroup, running.run_tag, running.ended_wall) == ("v1\t/group", "one.1.tag", None)
    journal.intent("one", 1, "shutdown")
    await wait_all_tasks_blocked()
    await journal.ended("one", 1, "stopped:shutdown", "ended by SIGTERM")
    ended = journal.load()["one"]
    assert (ended.intent, ended.verdict, ended.detail) == ("shutdown", "stopped:shutdown", "ended by SIGTERM")
    assert ended.ended_wall is not None


async def test_the_next_generation_knows_nothing_of_the_last_one_but_its_number(journal: Journal) -> None:
    await journal.next_generation("one", "a")
    await journal.started("one", 1, 4711, 99, "boot", None, "one.1.tag")
    await journal.ended("one", 1, "exit:1", "")
    assert await journal.next_generation("one", "b") == 2
    second = journal.load()["one"]
    assert (second.generation, second.digest, second.pid, second.run_tag, second.ended_wall) == (2, "b", None, None, None)
    assert await journal.next_generation("two", "a") == 1


async def test_what_a_generation_was_made_of_is_kept_while_somebody_is_made_of_it(journal: Journal) -> None:
    old = AgentSpec("one", CLASS_DEFAULTS["opus"], ("run", "{"), env=(("A", "b"),), every_s=1.5)
    new = dataclasses.replace(old, command=("walk",))
    for spec in (old, new):
        journal.keep_spec(spec)
        journal.keep_spec(spec)
        await journal.next_generation("one", spec.run_digest)
    assert journal.spec(old.run_digest) == old
    assert journal.spec("nonsense") is None
    await wait_all_tasks_blocked()
    journal.forget_specs({old.run_digest})
    await wait_all_tasks_blocked()
    assert journal.spec(old.run_digest) == old
    journal.forget_specs(())
    await wait_all_tasks_blocked()
    assert journal.spec(old.run_digest) is None
    assert journal.spec(new.run_digest) == new


async def test_the_last_word_of_a_rollout_is_kept(journal: Journal) -> None:
    assert journal.rollout() is None
    await journal.keep_rollout("one")
    await journal.keep_rollout("two")
    assert journal.rollout() == "two"
BASELINE = Baseline(started_wall=5.0, log_offset=7, cap_bytes=100, uid=1000, oom_kills=2)
STANDING = Standing(AgentState.QUARANTINED, since_wall=9.5, boot_id="b", is_wanted=True, reason="why", trials=1, ends_wall=(1.0,))


async def test_what_the_end_is_compared_with_goes_with_the_generation(journal: Journal) -> None:
    await journal.next_generation("one", "a")
    await journal.started("one", 1, 4711, 99, "boot", None, "one.1.tag", BASELINE)
    assert journal.load()["one"].baseline == BASELINE
    await journal.ended("one", 1, "exit:1", "", 42)
    assert journal.load()["one"].peak_bytes == 42
    await journal.next_generation("one", "a")
    assert (journal.load()["one"].baseline, journal.load()["one"].peak_bytes) == (None, None)


async def test_where_an_agent_stands_outlives_its_generations(journal: Journal) -> None:
    journal.stands("nobody", None)
    assert journal.load() == {}
    journal.stands("one", STANDING)
    await journal.next_generation("one", "a")
    assert journal.load()["one"].standing == STANDING
    journal.stands("one", None)
    assert journal.load()["one"].standing is None


async def test_a_later_supervisor_reads_all_of_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    def state() -> State:
        return State(tmp_path, clock=VirtualClock(), cache_bytes=1_000_000, run_sync=inline, disk=FakeDisk())

    first = state()
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        first.fleet.stands("one", STANDING)
        await first.fleet.next_generation("one", "a")
        await first.fleet.started("one", 1, 4711, 99, "boot", None, "one.1.tag", BASELINE)
        written = first.fleet.load()
        nursery.cancel_scope.cancel()
    assert state().fleet.load() == written
