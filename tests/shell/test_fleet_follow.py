"""A fleet that becomes another one while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentEnded, AgentStarted
from supervisord_ai.core.policies import StartPolicy
from supervisord_ai.core.roster import MB, AgentSpec
from supervisord_ai.errors import UsageError
from supervisord_ai.host.signals import KILL
from tests.shell.test_fleet import CLASS, World, states, view

RUNNING = AgentState.RUNNING


def specs_of(agents: Mapping[str, str], **policy: object) -> dict[str, AgentSpec]:
    changed = dataclasses.replace(CLASS, **policy)  # type: ignore[arg-type]
    return {name: AgentSpec(name, changed, (program,)) for name, program in agents.items()}


def started(world: World) -> list[tuple[str, int]]:
    return [(event.agent, event.generation) for event in world.events if isinstance(event, AgentStarted)]


def verdicts(world: World) -> list[tuple[str, str]]:
    return [(event.agent, event.verdict) for event in world.events if isinstance(event, AgentEnded)]


async def test_who_is_new_starts_who_is_gone_ends_and_nobody_else_notices(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve", "b": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        fleet.follow(specs_of({"b": "serve", "c": "serve"}))
        await trio.sleep(30)
        assert states(fleet) == {"b": RUNNING, "c": RUNNING}
        assert verdicts(world) == [("a", "stopped:removed")]
        assert sorted(started(world)) == [("a", 1), ("b", 1), ("c", 1)]
        assert len(world.processes.alive) == 2
        with pytest.raises(UsageError, match="no agent a"):
            fleet.start("a")
        await fleet.stop_all()
    assert world.processes.alive == []


async def test_a_changed_command_makes_an_agent_outdated_and_a_changed_weight_does_not(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        fleet.follow(specs_of({"a": "serve"}, weight=9.0, rate_per_min=1.0, grace_s=1.0))
        assert not view(fleet, "a").is_outdated
        fleet.follow(specs_of({"a": "slow"}, weight=9.0))
        await trio.sleep(300)
        assert view(fleet, "a").is_outdated
        assert started(world) == [("a", 1)]  # nobody is ended by a reload
        fleet.restart("a")
        await trio.sleep(30)
        assert started(world) == [("a", 1), ("a", 2)]
        assert not view(fleet, "a").is_outdated
        assert [process.launch.argv for process in world.processes.alive] == [("slow",)]
        fleet.follow(specs_of({"a": "serve"}))
        assert view(fleet, "a").is_outdated
        fleet.follow(specs_of({"a": "slow"}))  # taken back before it was done
        assert not view(fleet, "a").is_outdated
        await fleet.stop_all()


async def test_an_outdated_agent_that_ends_by_itself_comes_back_with_its_new_spec(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        fleet.follow(specs_of({"a": "slow"}))
        world.process("serve").signal(KILL)
        await trio.sleep(30)
        assert [process.launch.argv for process in world.processes.alive] == [("slow",)]
        await fleet.stop_all()


async def test_a_changed_cap_binds_who_runs_and_waits_for_one_who_uses_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve", "b": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        cages = {name: world.cages.cage(name) for name in ("a", "b")}
        cages["b"].memory_bytes = 70 * MB
        fleet.follow(specs_of({"a": "serve", "b": "serve"}, memory_bytes=50 * MB))
        assert (cages["a"].cap_bytes, cages["b"].cap_bytes) == (50 * MB, 100 * MB)
        assert (view(fleet, "a").cap_bytes, view(fleet, "b").cap_bytes) == (50 * MB, 100 * MB)
        cages["b"].memory_bytes = 30 * MB
        await trio.sleep(2)
        assert (cages["b"].cap_bytes, view(fleet, "b").cap_bytes) == (50 * MB, 50 * MB)
        assert len(started(world)) == 2
        await fleet.stop_all()


async def test_an_agent_that_is_wanted_again_before_it_ended_comes_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "slow"})
    async with world.running() as fleet:
        await trio.sleep(30)
        fleet.follow({})
        await trio.sleep(1)
        assert states(fleet) == {"a": AgentState.STOPPING}  # it is shown until nothing of it is left
        with pytest.raises(UsageError, match="not in the roster any more"):
            fleet.start("a")
        fleet.follow(world.specs)
        await trio.sleep(30)
        assert states(fleet) == {"a": RUNNING}
        assert started(world) == [("a", 1), ("a", 2)]
        fleet.follow({})
        await trio.sleep(30)
        assert states(fleet) == {}
        fleet.follow(world.specs)
        await trio.sleep(30)
        assert view(fleet, "a").generation == 3  # numbers are never given twice, not even to one who was away
        await fleet.stop_all()


async def test_who_was_stopped_by_its_owner_stays_stopped_whatever_its_spec_becomes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        fleet.stop("a")
        await trio.sleep(30)
        fleet.follow(specs_of({"a": "slow"}))
        await trio.sleep(30)
        assert states(fleet) == {"a": AgentState.STOPPED}
        fleet.start("a")
        await trio.sleep(30)
        assert [process.launch.argv for process in world.processes.alive] == [("slow",)]
        await fleet.stop_all()


@pytest.mark.parametrize("program", ["crash", "job"])
async def test_a_new_command_is_tried_at_once_where_the_old_one_rests(
    autojump_clock: MockClock, tmp_path: Path, program: str
) -> None:
    world = World(tmp_path, {"a": program})
    async with world.running() as fleet:
        await trio.sleep(60)
        assert states(fleet)["a"] in {AgentState.QUARANTINED, AgentState.BACKOFF, AgentState.FINISHED}
        fleet.follow(specs_of({"a": "serve"}))
        await trio.sleep(3)
        assert states(fleet) == {"a": RUNNING}
        await fleet.stop_all()


async def test_an_agent_whose_turn_has_not_come_comes_up_with_its_new_spec(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"first": "serve", "a": "serve"})
    world.start = StartPolicy(batch_size=1)
    async with world.running() as fleet:
        fleet.follow(specs_of({"first": "serve", "a": "slow"}))  # it is not of the first batch
        await trio.sleep(60)
        assert [process.launch.argv for process in world.processes.alive] == [("serve",), ("slow",)]
        assert states(fleet) == {"first": RUNNING, "a": RUNNING}
        await fleet.stop_all()


async def test_a_stop_in_the_middle_of_it_leaves_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    names = {f"a{n:02}": "serve" for n in range(25)}
    world = World(tmp_path, names)
    world.start = StartPolicy(batch_size=5)
    async with world.running() as fleet:
        await trio.sleep(60)
        fleet.follow(specs_of({f"a{n:02}": "slow" for n in range(5, 30)}))
        await trio.sleep(3)
        await fleet.stop_all()
        assert world.processes.alive == []
        with pytest.raises(UsageError, match="being stopped"):
            fleet.follow(world.specs)


async def test_a_hundred_other_fleets_one_after_the_other_end_as_the_last_one_says(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {f"a{n}": "serve" for n in range(8)})
    async with world.running() as fleet:
        await trio.sleep(30)
        for number in range(100):
            who = {f"a{n}": ("serve", "slow")[(n * number) % 2] for n in range(10) if (n + number) % 3}
            fleet.follow(specs_of(who))
            await trio.sleep(number % 7 * 0.3)
        last = {"a0": "serve", "a1": "slow"}
        fleet.follow(specs_of(last))
        await trio.sleep(120)
        assert states(fleet) == dict.fromkeys(last, RUNNING)
        for one in fleet.statistics().agents:
            if one.is_outdated:
                fleet.restart(one.name)
        await trio.sleep(30)
        assert sorted(process.launch.argv for process in world.processes.alive) == [("serve",), ("slow",)]
        assert len(set(started(world))) == len(started(world))
        await fleet.stop_all()


def test_a_fleet_that_does_not_run_follows_nobody(tmp_path: Path) -> None:
    fleet: Fleet = World(tmp_path, {"a": "serve"}).fleet()
    with pytest.raises(UsageError, match="does not run"):
        fleet.follow({})
