"""What is seen of the memory of agents: caps that are only observed, and what caps are suggested from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.cap_advice import Peak
from supervisord_ai.core.events import AgentEnded, AgentWouldExceed
from supervisord_ai.core.memory_plan import Enforce
from supervisord_ai.core.roster import MB
from supervisord_ai.core.verdict import OOM_OWN_CAP, OOM_RLIMIT
from supervisord_ai.host.cgroup import Guarantee
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import inline
from supervisord_ai.store.peaks import DAY_S, PeakJournal
from supervisord_ai.store.schema import JOURNAL
from tests.shell.test_fleet import World, view

CAP = 100 * MB


@asynccontextmanager
async def peaks(path: Path) -> AsyncIterator[PeakJournal]:
    database = Database(path / "journal.db", JOURNAL, durability=Durability.PROCESS, run_sync=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield PeakJournal(database, VirtualClock())
        nursery.cancel_scope.cancel()
    database.close()


def use(world: World, name: str, used_bytes: int, *, files_bytes: int = 0) -> None:
    world.cages.used[name] = used_bytes
    cage = world.cages.cage(name)
    cage.memory_bytes, cage.files_bytes = used_bytes, files_bytes


def exceeded(world: World) -> list[tuple[str, int]]:
    return [(one.agent, one.needed_bytes) for one in world.events if isinstance(one, AgentWouldExceed)]


@pytest.fixture
async def notes(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[PeakJournal]:
    async with peaks(tmp_path) as journal:
        yield journal


@pytest.mark.parametrize("guarantee", [Guarantee.HARD, Guarantee.SOFT_RLIMIT])
async def test_an_observed_cap_binds_nobody_and_says_once_who_would_have_been_over_it(
    autojump_clock: MockClock, tmp_path: Path, notes: PeakJournal, guarantee: Guarantee
) -> None:
    world = World(tmp_path, {"one": "serve", "two": "serve"})
    world.cages.guarantee = guarantee
    world.enforce, world.peaks = Enforce.OBSERVE, notes
    async with world.running() as fleet:
        await trio.sleep(5)
        assert world.cages.cage("one").cap_bytes is None
        use(world, "one", CAP + 50 * MB)
        use(world, "two", CAP - 1)
        await trio.sleep(60)
        assert exceeded(world) == [("one", CAP + 50 * MB)]
        assert (view(fleet, "one").excess_bytes, view(fleet, "two").excess_bytes) == (CAP + 50 * MB, None)
        assert (view(fleet, "one").guarantee, view(fleet, "one").cap_bytes) == ("observed", CAP)
        assert fleet.statistics().guarantee == "observed"
        use(world, "one", CAP + 80 * MB)  # a new high
        await trio.sleep(60)
        assert [size for _, size in exceeded(world)] == [CAP + 50 * MB, CAP + 80 * MB]
        assert all(process.signals == [] for process in world.processes.alive)


async def test_pages_of_files_are_no_excess(autojump_clock: MockClock, tmp_path: Path, notes: PeakJournal) -> None:
    world = World(tmp_path, {"one": "serve"})
    world.enforce, world.peaks = Enforce.OBSERVE, notes
    async with world.running() as fleet:
        await trio.sleep(5)
        use(world, "one", CAP + 50 * MB, files_bytes=51 * MB)
        await trio.sleep(60)
        assert (exceeded(world), view(fleet, "one").excess_bytes) == ([], None)


async def test_caps_bind_where_they_are_not_observed(autojump_clock: MockClock, tmp_path: Path, notes: PeakJournal) -> None:
    world = World(tmp_path, {"one": "serve"})
    world.peaks = notes
    async with world.running():
        await trio.sleep(5)
        use(world, "one", CAP + 50 * MB)
        await trio.sleep(60)
        assert (world.cages.cage("one").cap_bytes, exceeded(world)) == (CAP, [])


async def test_a_next_supervisor_that_observes_lifts_the_caps_and_one_that_does_not_sets_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve"})

    async def supervise(enforce: Enforce) -> tuple[int | None, int]:
        world.enforce = enforce
        async with world.running() as fleet:
            await trio.sleep(5)
            fleet.leave()
            return world.cages.cage("one").cap_bytes, view(fleet, "one").cap_bytes

    assert await supervise(Enforce.HARD) == (CAP, CAP)
    assert await supervise(Enforce.OBSERVE) == (None, CAP)
    assert await supervise(Enforce.HARD) == (CAP, CAP)
    assert await supervise(Enforce.OBSERVE) == (None, CAP)
    assert len(world.processes.spawned) == 1  # adopted, all along


# --- what is written down ---


async def test_the_highest_of_each_day_is_kept_for_agents_that_never_end(
    autojump_clock: MockClock, tmp_path: Path, notes: PeakJournal
) -> None:
    world = World(tmp_path, {"one": "serve", "idle": "serve"})
    world.peaks = notes
    async with world.running():
        for size in (30, 70, 50):
            use(world, "one", size * MB)
            await trio.sleep(30)
        assert notes.of_days(7) == {"one": Peak("one", 70 * MB, days=1)}
        await trio.sleep(DAY_S)
        assert notes.of_days(7) == {"one": Peak("one", 70 * MB, days=2)}
        assert notes.of_days(1) == {"one": Peak("one", 50 * MB, days=1)}  # of today alone
    await notes.forget(VirtualClock().wall())
    assert notes.of_days(366) == {"one": Peak("one", 50 * MB, days=1)}


async def test_an_end_at_the_own_cap_is_counted(autojump_clock: MockClock, tmp_path: Path, notes: PeakJournal) -> None:
    world = World(tmp_path, {"one": "serve"})
    world.peaks = notes
    async with world.running() as fleet:
        await trio.sleep(5)
        for verdict in (OOM_OWN_CAP, "exit:1", OOM_RLIMIT):  # the last one: where there is no cgroup that could say so
            fleet.tell(AgentEnded("one", 1, verdict, 99 * MB, CAP))
        await trio.sleep(5)
    assert notes.of_days(1) == {"one": Peak("one", CAP, days=1, kills=2)}
