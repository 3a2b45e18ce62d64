"""Agents that give their memory back, in virtual time: a whole fleet, samples of a machine that runs out of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentAsked, AgentCalls, AgentRestored, AgentShed, ReliefDecided
from supervisord_ai.core.policies import StartPolicy
from supervisord_ai.core.relief import AdmitUrgent, DropCache, PauseStarts, ReliefPolicy, ResumeStarts
from supervisord_ai.core.roster import MB
from supervisord_ai.core.samples import Machine, Sample
from supervisord_ai.health.relief import ReliefWatch
from tests.shell.test_fleet import PROGRAMS, World, states, view

RESERVE = 2000 * MB
EACH = 100 * MB


class House:
    """A fleet and the watch over memory, wired as the daemon wires them. Memory comes back when an agent has ended."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        self.world = world
        self.fleet = fleet
        self.decided: list[ReliefDecided] = []
        self.watch = ReliefWatch(ReliefPolicy(RESERVE), fleet=fleet.room, tell=self._tell, clock=VirtualClock())

    def _tell(self, event: ReliefDecided) -> None:
        self.decided.append(event)
        self.fleet.tell(event)

    def shed(self) -> list[str]:
        return [event.agent for event in self.world.events if isinstance(event, AgentShed)]

    def restored(self) -> list[str]:
        return [event.agent for event in self.world.events if isinstance(event, AgentRestored)]

    async def see(self, available_mb: int, *, seconds: int = 1) -> None:
        """Have that much memory for so long; what the shed gave back comes on top."""
        for _ in range(seconds):
            down = sum(state is AgentState.STOPPED for state in states(self.fleet).values())
            machine = Machine(available_bytes=available_mb * MB + down * EACH)
            self.watch.take(Sample(trio.current_time(), 0.0, machine))
            await trio.sleep(1)


@asynccontextmanager
async def house(tmp_path: Path, *, opus: int = 1, sonnet: int = 3, batch: int = 2) -> AsyncIterator[House]:
    names = {f"batch-{n}": "serve" for n in range(batch)}
    names |= {f"opus-{n}": "serve" for n in range(opus)} | {f"sonnet-{n}": "serve" for n in range(sonnet)}
    world = World(tmp_path, names)
    for name, spec in world.specs.items():
        kind = name.partition("-")[0]
        priority = {"opus": 3, "sonnet": 5, "batch": 9}[kind]
        policy = dataclasses.replace(spec.policy, name=kind, priority=priority, ceiling=priority, critical=kind == "opus")
        world.specs[name] = dataclasses.replace(spec, policy=policy)
    world.start = StartPolicy(batch_size=100)
    async with world.running() as fleet:
        await trio.sleep(5)
        for name in names:
            world.cages.cage(name).memory_bytes = EACH
        yield House(world, fleet)


async def test_with_memory_to_spare_nobody_is_shed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as home:
        await home.see(2100, seconds=300)
        assert home.decided == []


async def test_as_many_are_shed_as_bring_the_memory_back_lowest_priority_and_idlest_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as home:
        await trio.sleep(100)
        home.fleet.tell(AgentAsked("sonnet-2", 1))
        home.fleet.tell(AgentCalls("sonnet-1", 1, is_under_way=True))
        await home.see(1850, seconds=20)
        assert [type(event.deed) for event in home.decided][:2] == [PauseStarts, DropCache]
        assert home.shed() == ["batch-1", "batch-0", "sonnet-0", "sonnet-2"]
        assert view(home.fleet, "batch-1").verdict == "stopped:shed"
        assert view(home.fleet, "batch-1").detail == "shed: 1850 MB available, the reserve is 2000 MB"
        assert view(home.fleet, "sonnet-1").state is AgentState.RUNNING


async def test_a_critical_agent_stays_and_requests_are_turned_away_instead(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as home:
        await home.see(500, seconds=60)
        assert states(home.fleet)["opus-0"] is AgentState.RUNNING
        assert set(home.shed()) == {name for name in states(home.fleet) if not name.startswith("opus")}
        assert isinstance(home.decided[-1].deed, AdmitUrgent)


async def test_after_a_minute_of_calm_they_come_back_one_at_a_time_the_last_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as home:
        await home.see(1600, seconds=10)
        gone = home.shed()
        assert len(gone) > 3
        await home.see(3500, seconds=60)
        assert home.restored() == []
        await home.see(3500, seconds=6)
        assert len(home.restored()) in {1, 2}
        await home.see(3500, seconds=5 * len(gone) + 10)
        assert home.restored() == gone[::-1]
        assert set(states(home.fleet).values()) == {AgentState.RUNNING}
        assert isinstance(home.decided[-1].deed, ResumeStarts)


async def test_one_whose_owner_spoke_meanwhile_is_left_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as home:
        await home.see(1850, seconds=20)
        first, second, *_ = home.shed()
        home.fleet.stop(first)
        home.fleet.start(second)
        await trio.sleep(5)
        assert first not in home.fleet.pulse().shed
        assert states(home.fleet)[second] is AgentState.RUNNING
        await home.see(5000, seconds=200)
        assert states(home.fleet)[first] is AgentState.STOPPED
        assert first not in home.restored()
        assert second not in home.restored()


async def test_one_that_takes_its_time_to_end_is_reckoned_with(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, sonnet=0, opus=0, batch=5) as home:
        for process in home.world.processes.alive:
            process.program = PROGRAMS["deaf"]
        await home.see(1950, seconds=10)
        assert len(home.shed()) == 3, "250 MB are wanted: two hundred are on their way"


async def test_what_was_not_started_yet_waits_until_there_is_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as home:
        await home.see(1900)
        specs = home.world.specs | {"new": dataclasses.replace(home.world.specs["opus-0"], name="new")}
        home.fleet.follow(specs)
        await home.see(2500, seconds=100)
        assert states(home.fleet)["new"] is AgentState.PENDING
        await home.see(4000, seconds=100)
        assert states(home.fleet)["new"] is AgentState.RUNNING


async def test_a_stop_of_everything_sheds_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as home:
        await home.fleet.stop_all()
        await home.see(100, seconds=10)
        assert home.shed() == []


async def test_a_supervisor_that_takes_over_starts_who_was_shed_and_not_who_was_stopped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as home:
        await home.see(1850, seconds=20)
        first, second, *_ = home.shed()
        home.fleet.stop(first)
        await trio.sleep(5)
        home.fleet.leave()
    async with home.world.running() as fleet:
        await trio.sleep(30)
        assert states(fleet)[second] is AgentState.RUNNING
        assert states(fleet)[first] is AgentState.STOPPED
