"""A rollout in virtual time: groups, the gate, the way back, a supervisor that is killed in the middle of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.effects import Level
from supervisord_ai.core.events import AgentCalls, LevelChanged, RolloutMoved
from supervisord_ai.core.policies import RolloutPolicy, StartPolicy
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.errors import UsageError
from tests.shell.test_fleet import World, states, view
from tests.shell.test_fleet_follow import specs_of, started

RUNNING = AgentState.RUNNING
NAMES = tuple(f"a{n:02}" for n in range(25))


def world_of(tmp_path: Path, *, names: tuple[str, ...] = NAMES, program: str = "serve", **rollout: float) -> World:
    world = World(tmp_path, dict.fromkeys(names, program))
    world.rollout = RolloutPolicy(**rollout)  # type: ignore[arg-type]
    return world


async def outdated(world: World, fleet: Fleet, program: str, **policy: object) -> dict[str, AgentSpec]:
    """Wait until everyone runs, then have them all be something else."""
    await trio.sleep(60)
    assert set(states(fleet).values()) == {RUNNING}
    specs = specs_of(dict.fromkeys(world.specs, program), **policy)
    fleet.follow(specs)
    return specs


async def over(fleet: Fleet, *, within_s: float = 600.0) -> str:
    with trio.fail_after(within_s):
        while (state := fleet.rollouts.view().state) in {"running", "rolling back"}:  # noqa: ASYNC110 - as its owner would
            await trio.sleep(0.5)
    return state


def programs(world: World) -> Mapping[str, int]:
    alive = [process.launch.argv[0] for process in world.processes.alive]
    return {name: alive.count(name) for name in sorted(set(alive))}


async def test_a_rollout_goes_group_by_group_and_never_takes_more_than_one_down(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = world_of(tmp_path)
    async with world.running() as fleet:
        await outdated(world, fleet, "slow")
        assert fleet.rollouts.view().outdated == 25
        began = trio.current_time()
        assert fleet.rollouts.begin(NAMES) == NAMES
        fewest = 25
        while fleet.rollouts.view().state == "running":
            fewest = min(fewest, sum(state is RUNNING for state in states(fleet).values()))
            await trio.sleep(0.1)
        assert fleet.rollouts.view().state == "done"
        assert fewest == 15
        assert programs(world) == {"slow": 25}
        again = [name for name, number in started(world) if number == 2]
        assert [set(again[at : at + 10]) for at in (0, 10, 20)] == [set(NAMES[at : at + 10]) for at in (0, 10, 20)]
        # Three groups, each 2 s to start and 10 s to prove itself.
        assert trio.current_time() - began == pytest.approx(36.0, abs=1.0)
        assert fleet.rollouts.view().outdated == 0
        assert [event.state for event in world.events if isinstance(event, RolloutMoved)] == ["running", "done"]
        await fleet.stop_all()


async def test_a_rollout_that_fails_takes_everyone_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path)
    async with world.running() as fleet:
        await outdated(world, fleet, "crash")
        fleet.rollouts.begin(NAMES)
        assert await over(fleet) == "rolled back"
        await trio.sleep(60)
        assert set(states(fleet).values()) == {RUNNING}
        assert programs(world) == {"serve": 25}
        told = fleet.rollouts.view()
        assert (told.failed, told.total, told.outdated) == (10, 25, 25)
        assert {one.step for one in told.agents} == {"returned", "waiting"}
        assert told.agents[0].why.startswith("crash:SEGV")
        # What was not good enough is not brought in by accident.
        world.process("serve").signal(9)
        await trio.sleep(60)
        assert programs(world) == {"serve": 25}
        # A better one is.
        fleet.follow(specs_of(dict.fromkeys(NAMES, "slow")))
        fleet.rollouts.begin(NAMES)
        assert await over(fleet) == "done"
        assert programs(world) == {"slow": 25}
        await fleet.stop_all()


async def test_one_of_which_nothing_can_be_started_goes_back_too(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a", "b"))
    async with world.running() as fleet:
        await outdated(world, fleet, "no such program")
        fleet.rollouts.begin(("a", "b"))
        assert await over(fleet) == "rolled back"
        await trio.sleep(10)
        assert programs(world) == {"serve": 2}
        await fleet.stop_all()


async def test_one_failure_within_the_limit_goes_back_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a", "b", "c"), group_size=1)
    async with world.running() as fleet:
        await trio.sleep(60)
        fleet.follow(specs_of({"a": "crash", "b": "slow", "c": "slow"}))
        fleet.rollouts.begin(("a", "b", "c"))
        assert await over(fleet) == "done"
        assert programs(world) == {"serve": 1, "slow": 2}
        assert view(fleet, "a").is_outdated
        await fleet.stop_all()


async def test_its_own_calls_are_waited_for_as_long_as_its_grace(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a", "b"))
    async with world.running() as fleet:
        await outdated(world, fleet, "slow", grace_s=8.0)
        for name in ("a", "b"):
            fleet.tell(AgentCalls(name, 1, is_under_way=True))
        began = trio.current_time()
        fleet.rollouts.begin(("a", "b"))
        await trio.sleep(3)
        fleet.tell(AgentCalls("a", 1, is_under_way=False))
        assert await over(fleet) == "done"
        begun = {name: round(at - began) for at, name in world.processes.spawned[2:]}
        assert sorted(round(at - began) for at, _ in world.processes.spawned[2:]) == [3, 8]
        assert begun
        await fleet.stop_all()


async def test_who_is_stopped_in_the_middle_of_it_stays_stopped(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a", "b", "c"), group_size=1)
    async with world.running() as fleet:
        await outdated(world, fleet, "slow")
        fleet.rollouts.begin(("a", "b", "c"))
        await trio.sleep(1)
        fleet.stop("a")
        fleet.stop("b")
        assert await over(fleet) == "done"
        await trio.sleep(60)
        assert states(fleet) == {"a": AgentState.STOPPED, "b": AgentState.STOPPED, "c": RUNNING}
        await fleet.stop_all()


async def test_a_pause_a_resume_and_an_abort(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path)
    async with world.running() as fleet:
        await outdated(world, fleet, "slow")
        fleet.rollouts.begin(NAMES)
        await trio.sleep(1)
        fleet.rollouts.pause()
        await trio.sleep(300)
        assert (fleet.rollouts.view().state, programs(world)) == ("paused", {"serve": 15, "slow": 10})
        with pytest.raises(UsageError, match="already"):
            fleet.rollouts.begin(NAMES)
        fleet.rollouts.resume()
        await trio.sleep(5)
        assert programs(world) == {"serve": 5, "slow": 20}
        fleet.rollouts.abort()
        assert await over(fleet) == "rolled back"
        assert programs(world) == {"serve": 25}
        with pytest.raises(UsageError, match="no rollout is under way"):
            fleet.rollouts.abort()
        await fleet.stop_all()


async def test_a_major_level_holds_up_the_next_group_and_the_next_batch(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.start = StartPolicy(batch_size=10)
    async with world.running() as fleet:
        await trio.sleep(1)
        fleet.tell(LevelChanged(Level.NORMAL, Level.MAJOR, "memory", "memory", 0.0))
        await trio.sleep(300)
        assert sum(state is RUNNING for state in states(fleet).values()) == 10
        fleet.tell(LevelChanged(Level.MAJOR, Level.MINOR, "memory", "memory", 0.0))
        await outdated(world, fleet, "slow")
        fleet.rollouts.begin(NAMES)
        await trio.sleep(1)
        fleet.tell(LevelChanged(Level.MINOR, Level.CRITICAL, "memory", "memory", 0.0))
        await trio.sleep(300)
        assert programs(world) == {"serve": 15, "slow": 10}
        fleet.tell(LevelChanged(Level.CRITICAL, Level.NORMAL, "memory", "memory", 0.0))
        assert await over(fleet) == "done"
        await fleet.stop_all()


@pytest.mark.parametrize("after_s", [0.0, 1.0, 3.0, 12.5, 20.0])
async def test_a_supervisor_that_was_killed_in_the_middle_is_paused_and_knows_the_way_back(
    autojump_clock: MockClock, tmp_path: Path, after_s: float
) -> None:
    world = world_of(tmp_path)
    async with world.running() as fleet:
        world.specs = await outdated(world, fleet, "slow")
        fleet.rollouts.begin(NAMES)
        await fleet.rollouts.wait_written()  # as the owner does, whose word is answered
        await trio.sleep(after_s)
    rolled = sum(one.launch.argv == ("slow",) for one in world.processes.processes.values())
    async with world.running() as fleet:
        await trio.sleep(60)
        assert fleet.rollouts.view().state == "paused"
        assert set(states(fleet).values()) == {RUNNING}
        assert programs(world).get("slow", 0) <= rolled
        fleet.rollouts.abort()
        assert await over(fleet) == "rolled back"
        await trio.sleep(30)
        assert programs(world) == {"serve": 25}
        assert set(states(fleet).values()) == {RUNNING}
        await fleet.stop_all()


async def test_a_rolled_back_spec_does_not_come_in_with_the_next_supervisor(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a", "b"))
    async with world.running() as fleet:
        world.specs = await outdated(world, fleet, "crash")
        fleet.rollouts.begin(("a", "b"))
        assert await over(fleet) == "rolled back"
        await fleet.stop_all()
    async with world.running() as fleet:
        await trio.sleep(60)
        assert programs(world) == {"serve": 2}
        assert fleet.rollouts.view().state == "rolled back"
        fleet.follow(specs_of({"a": "slow", "b": "slow"}))
        fleet.restart("a")
        await trio.sleep(60)
        assert programs(world) == {"serve": 1, "slow": 1}
        await fleet.stop_all()


async def test_a_stop_of_everything_in_the_middle_of_a_rollout_leaves_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path)
    async with world.running() as fleet:
        await outdated(world, fleet, "slow")
        fleet.rollouts.begin(NAMES)
        await trio.sleep(1)
        await fleet.stop_all()
        await trio.sleep(60)
        assert world.processes.alive == []


async def test_nothing_outdated_is_nothing_to_roll(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = world_of(tmp_path, names=("a",))
    async with world.running() as fleet:
        await trio.sleep(30)
        assert fleet.rollouts.begin(("a",)) == ()
        assert fleet.rollouts.view().state == "none"
        assert fleet.rollouts.begin(("nobody",)) == ()
        await fleet.stop_all()
        with pytest.raises(UsageError, match="being stopped"):
            fleet.rollouts.begin(("a",))


async def test_agents_are_started_anew_at_their_age_and_never_more_than_a_group_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, dict.fromkeys(NAMES, "serve"), max_age_s=1000.0)
    world.rollout = RolloutPolicy(group_size=2)
    async with world.running() as fleet:
        fewest = 25
        await trio.sleep(850)
        assert len(started(world)) == 25
        for _ in range(3000):
            fewest = min(fewest, sum(state is RUNNING for state in states(fleet).values()))
            await trio.sleep(0.1)
        assert fewest == 23
        assert sorted(name for name, number in started(world) if number == 2) == sorted(NAMES)
        assert set(world.journal.verdicts("a00")) == {"stopped:max-age"}
        # Never two of a batch at the same moment: each generation has an age of its own.
        again = [at for at, _ in world.processes.spawned[25:50]]
        assert again[-1] - again[0] > 100
        await fleet.stop_all()


async def test_one_that_is_busy_is_started_anew_between_two_calls(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "serve"}, max_age_s=100.0)
    async with world.running() as fleet:
        await trio.sleep(10)
        fleet.tell(AgentCalls("a", 1, is_under_way=True))
        await trio.sleep(300)
        assert len(started(world)) == 1
        fleet.tell(AgentCalls("a", 1, is_under_way=False))
        await trio.sleep(5)
        assert len(started(world)) == 2
        await fleet.stop_all()
