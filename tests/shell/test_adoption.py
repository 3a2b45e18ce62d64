"""A supervisor goes, or is killed, and its agents stay: the next one knows them again, and everything about them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentEnded, AgentReady, AgentStarted
from supervisord_ai.core.roster import MB, Ready
from supervisord_ai.host.signals import KILL, TERM
from tests.shell.test_fleet import World, states, view


@asynccontextmanager
async def left_after(world: World, within_s: float) -> AsyncIterator[Fleet]:
    """A supervisor that is told to leave once the block is done."""
    async with world.running() as fleet:
        await trio.sleep(within_s)
        yield fleet
        fleet.leave()


def pids(fleet: Fleet) -> dict[str, int | None]:
    return {agent.name: agent.pid for agent in fleet.statistics().agents}


async def test_131_agents_are_the_same_processes_under_the_next_supervisor(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n:03}": "serve" for n in range(131)})
    async with left_after(world, 40) as fleet:
        before = pids(fleet)
    assert len(world.processes.alive) == 131
    assert not any(isinstance(event, AgentEnded) for event in world.events)
    world.events.clear()
    async with world.running() as fleet:
        # The first look, as soon as it has started: nobody is shown as anything but running.
        assert pids(fleet) == before
        assert set(states(fleet).values()) == {AgentState.RUNNING}
        assert {agent.generation for agent in fleet.statistics().agents} == {1}
        await trio.sleep(60)
        assert pids(fleet) == before
        assert len(world.processes.spawned) == 131
        await fleet.stop_all()
        assert world.processes.alive == []
        assert {agent.verdict for agent in fleet.statistics().agents} == {"stopped:shutdown"}


async def test_the_other_rooms_are_told_of_the_same_generation_before_it_can_ask(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with left_after(world, 10):
        (first,) = (event for event in world.events if isinstance(event, AgentStarted))
    world.events.clear()
    async with world.running():
        assert world.events == [dataclasses.replace(first, is_adopted=True), AgentReady("one", 1)]


async def test_an_end_that_nobody_could_be_told_of_is_unknown_and_counts(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with left_after(world, 10):
        pass
    async with world.running() as fleet:
        world.process("serve").signal(KILL)
        await trio.sleep(0.5)
        assert world.journal.verdicts("one") == ["exit:unknown(adopted)"]
        await trio.sleep(5)
        assert (view(fleet, "one").generation, view(fleet, "one").restarts) == (2, 1)
        await fleet.stop_all()


async def test_an_adopted_agent_over_its_cap_is_judged_by_what_was_counted_when_it_started(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve"})
    cage = world.cages.cage("one").path
    world.processes.oom_kills[cage] = 3  # of earlier generations
    world.processes.tells_status = True
    async with left_after(world, 10):
        pass
    async with world.running():
        world.processes.oom_kills[cage] = 4
        world.process("serve").signal(KILL)
        await trio.sleep(0.5)
    assert world.journal.verdicts("one") == ["oom:own-cap"]


async def test_one_killed_from_outside_is_told_from_one_over_its_cap(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    world.processes.oom_kills[world.cages.cage("one").path] = 3
    world.processes.tells_status = True
    async with left_after(world, 10):
        pass
    async with world.running():
        world.process("serve").signal(KILL)
        await trio.sleep(0.5)
    assert world.journal.verdicts("one") == ["killed:external"]


async def test_a_quarantine_goes_on_and_ends_when_it_would_have(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash", "other": "serve"})
    async with left_after(world, 200) as fleet:
        assert view(fleet, "one").state is AgentState.QUARANTINED
        reason, since_s = view(fleet, "one").detail, view(fleet, "one").since_s
    await trio.sleep(100)
    async with world.running() as fleet:
        assert view(fleet, "one").state is AgentState.QUARANTINED
        assert view(fleet, "one").detail == reason
        assert view(fleet, "one").since_s == pytest.approx(since_s + 100)
        assert view(fleet, "one").restarts == 4
        await trio.sleep(600 - since_s - 100 - 1)
        assert view(fleet, "one").generation == 5
        await trio.sleep(3)
        assert view(fleet, "one").generation == 6  # its trial
        await fleet.stop_all()


async def test_crashes_under_two_supervisors_are_counted_together(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash"})
    world.restart = dataclasses.replace(world.restart, base_s=2.0, max_s=2.0, window_s=1000.0)
    while len(world.journal.verdicts("one")) < 5:
        async with world.running() as fleet:
            await trio.sleep(2.0)
            fleet.leave()
    async with world.running() as fleet:
        assert view(fleet, "one").state is AgentState.QUARANTINED
        assert view(fleet, "one").detail == "5 ends in 1000 s, the last: crash:SEGV"


async def test_a_changed_command_is_tried_and_not_kept_in_quarantine(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash"})
    async with left_after(world, 200) as fleet:
        assert view(fleet, "one").state is AgentState.QUARANTINED
    world.specs = World(tmp_path, {"one": "serve"}).specs
    async with world.running() as fleet:
        await trio.sleep(5)
        assert view(fleet, "one").state is AgentState.RUNNING


async def test_whom_its_owner_stopped_stays_stopped_until_a_full_stop(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "other": "serve"})
    async with left_after(world, 10) as fleet:
        fleet.stop("one")
        await trio.sleep(1)
    async with world.running() as fleet:
        await trio.sleep(30)
        assert states(fleet) == {"one": AgentState.STOPPED, "other": AgentState.RUNNING}
        await fleet.stop_all()
    async with world.running() as fleet:
        await trio.sleep(30)
        assert set(states(fleet).values()) == {AgentState.RUNNING}
        await fleet.stop_all()


async def test_nothing_that_stood_is_known_after_a_restart_of_the_machine(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash", "other": "serve"})
    async with left_after(world, 200) as fleet:
        assert view(fleet, "one").state is AgentState.QUARANTINED
    world.process("serve").signal(KILL)
    world.processes.boot = "the next boot"
    async with world.running() as fleet:
        await trio.sleep(0.1)
        assert view(fleet, "one").generation == 6
        assert world.journal.ends[-1][:3] == ("other", 1, "lost-while-down")
        assert world.journal.ends[-1][3] == "the machine was started anew"


async def test_a_stop_that_had_begun_is_finished_by_the_next_supervisor(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "slow"})
    async with left_after(world, 10) as fleet:
        fleet.stop("one")
        await trio.sleep(0.5)
    assert world.processes.alive
    async with world.running() as fleet:
        await trio.sleep(0.1)
        assert view(fleet, "one").state is AgentState.STOPPING
        await trio.sleep(30)
        assert view(fleet, "one").state is AgentState.STOPPED
        assert world.journal.verdicts("one") == ["stopped:owner"]


async def test_a_restart_that_had_begun_is_finished_by_the_next_supervisor(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "slow"})
    async with left_after(world, 10) as fleet:
        fleet.restart("one")
        await trio.sleep(0.5)
    async with world.running() as fleet:
        await trio.sleep(30)
        assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.RUNNING, 2)
        assert world.journal.verdicts("one") == ["stopped:restart"]
        await fleet.stop_all()


async def test_a_stop_of_the_whole_fleet_that_a_kill_cut_short_is_finished_before_anyone_starts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "deaf"})
    async with left_after(world, 10) as fleet:
        with trio.move_on_after(1):
            await fleet.stop_all()
    assert len(world.processes.alive) == 1
    async with world.running() as fleet:
        assert world.processes.alive == []
        await trio.sleep(10)
        assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.RUNNING, 2)
        await fleet.stop_all()


async def test_a_stop_while_agents_are_looked_for_ends_those_who_are_found(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "deaf": "deaf"})
    async with left_after(world, 10):
        pass
    await world.leave_behind("stranger", "deaf")  # makes the look take two seconds
    fleet = world.fleet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        await trio.sleep(1)
        await fleet.stop_all()
        assert world.processes.alive == []
        assert set(world.journal.verdicts("one")) == {"stopped:shutdown"}
        nursery.cancel_scope.cancel()


async def test_whose_spec_changed_meanwhile_runs_on_as_outdated(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "other": "serve"})
    async with left_after(world, 10) as fleet:
        before = pids(fleet)
    world.specs["one"] = dataclasses.replace(world.specs["one"], env=(("NEW", "1"),))
    async with world.running() as fleet:
        await trio.sleep(30)
        assert pids(fleet) == before
        assert [agent.is_outdated for agent in fleet.statistics().agents] == [True, False]
        fleet.restart("one")
        await trio.sleep(30)
        assert not view(fleet, "one").is_outdated
        await fleet.stop_all()


async def test_a_cap_that_changed_meanwhile_binds_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with left_after(world, 10):
        pass
    policy = dataclasses.replace(world.specs["one"].policy, memory_bytes=200 * MB)
    world.specs["one"] = dataclasses.replace(world.specs["one"], policy=policy)
    async with world.running() as fleet:
        assert view(fleet, "one").cap_bytes == 200 * MB
        assert world.cages.cage("one").cap_bytes == 200 * MB
        await fleet.stop_all()


async def test_who_left_the_roster_meanwhile_is_ended(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "gone": "serve"})
    async with left_after(world, 10):
        pass
    del world.specs["gone"]
    async with world.running() as fleet:
        assert len(world.processes.alive) == 1
        assert world.journal.ends[-1][:3] == ("gone", 1, "lost-while-down")
        assert "it is not in the roster any more" in world.journal.ends[-1][3]
        await fleet.stop_all()


async def test_a_main_process_that_ended_meanwhile_takes_its_strays_along(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "gentle-parent"})
    async with left_after(world, 10):
        pass
    next(p for p in world.processes.alive if p.program.stray is not None).signal(KILL)
    (stray,) = world.processes.alive
    async with world.running() as fleet:
        assert not stray.is_alive
        assert world.journal.ends[-1][:3] == ("one", 1, "lost-while-down")
        assert world.journal.ends[-1][3].startswith("its main process had ended; 1 processes of it")
        await trio.sleep(10)
        assert view(fleet, "one").generation == 2
        await fleet.stop_all()


async def test_without_cages_that_outlive_us_nobody_is_taken_over(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with left_after(world, 10):
        pass
    world.cages.why_not_outlived = "no cgroups"
    (survivor,) = world.processes.alive
    async with world.running() as fleet:
        assert not survivor.is_alive
        assert survivor.signals == [TERM]
        await trio.sleep(10)
        assert view(fleet, "one").generation == 2
        await fleet.stop_all()


async def test_one_that_was_not_ready_yet_is_waited_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"}, ready=Ready.NOTIFY, start_s=100.0)
    async with left_after(world, 10) as fleet:
        assert view(fleet, "one").state is AgentState.STARTING
    async with world.running() as fleet:
        assert view(fleet, "one").state is AgentState.STARTING
        world.notify.sockets["one"].say(world.process("serve").pid, b"READY=1")
        await trio.sleep(1)
        assert view(fleet, "one").state is AgentState.RUNNING
        await fleet.stop_all()


async def test_a_word_that_nobody_heard_does_not_keep_an_agent_from_being_ready(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """READY=1 is said once; said while no supervisor ran, it is lost."""
    world = World(tmp_path, {"one": "serve"}, ready=Ready.NOTIFY, start_s=5.0)
    async with left_after(world, 10):
        pass
    async with world.running() as fleet:
        await trio.sleep(6)
        assert view(fleet, "one").state is AgentState.RUNNING
        await fleet.stop_all()
