"""Heartbeats in virtual time: who promised them, who is excused, what a hang leads to."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentCalls
from supervisord_ai.core.roster import Ready
from supervisord_ai.host.signals import ABRT
from tests.shell.test_fleet import World, states, view

RUNNING = AgentState.RUNNING


def say(world: World, message: bytes, *, name: str = "a") -> None:
    pid = next(process.pid for process in world.processes.alive if f"/{name}/" in f"{process.cage}/")
    world.notify.sockets[name].say(pid, message)


async def test_one_that_keeps_its_promise_lives_and_one_that_breaks_it_is_ended_and_comes_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "serve", "b": "serve"})
    async with world.running() as fleet:
        await trio.sleep(5)
        say(world, b"WATCHDOG_USEC=10000000")
        for _ in range(20):
            await trio.sleep(9)
            say(world, b"WATCHDOG=1")
        assert world.journal.ends == []
        first = world.processes.processes[view(fleet, "a").pid or 0]
        await trio.sleep(11)
        assert first.signals == [ABRT]  # systemd's choice: it leaves a trace of where it hangs
        assert world.journal.verdicts("a") == ["stopped:watchdog"]
        await trio.sleep(10)
        assert view(fleet, "a").generation == 2
        await trio.sleep(600)  # the next generation has promised nothing yet
        assert world.journal.verdicts("a") == ["stopped:watchdog"]
        assert world.journal.verdicts("b") == []
        await fleet.stop_all()


async def test_while_its_own_call_waits_in_our_queue_nobody_takes_it_for_hung(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "serve"})
    async with world.running() as fleet:
        await trio.sleep(5)
        say(world, b"WATCHDOG_USEC=10000000")
        await trio.sleep(1)
        fleet.tell(AgentCalls("a", 1, is_under_way=True))
        await trio.sleep(3600)
        assert states(fleet) == {"a": RUNNING}
        fleet.tell(AgentCalls("a", 1, is_under_way=False))
        await trio.sleep(9)
        assert world.journal.ends == []
        await trio.sleep(2)
        assert world.journal.verdicts("a") == ["stopped:watchdog"]
        await fleet.stop_all()


async def test_hangs_count_as_its_own_doing_and_end_in_quarantine(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "serve"})
    async with world.running() as fleet:
        for _ in range(200):
            await trio.sleep(1)
            if world.processes.alive:
                say(world, b"WATCHDOG_USEC=1\nWATCHDOG=trigger")
        assert states(fleet) == {"a": AgentState.QUARANTINED}
        assert world.journal.verdicts("a") == ["stopped:watchdog"] * 5
        await fleet.stop_all()


async def test_one_that_is_stopping_gets_the_time_it_asks_for_and_not_all_the_time_there_is(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"a": "deaf"}, grace_s=5.0)
    async with world.running() as fleet:
        await trio.sleep(5)
        fleet.stop("a")
        began = trio.current_time()
        while world.processes.alive:
            await trio.sleep(1)
            if world.processes.alive:
                say(world, b"STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000")
        assert 299 <= trio.current_time() - began <= 302
        await fleet.stop_all()


async def test_the_end_of_the_supervisor_is_put_off_by_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "deaf"}, grace_s=60.0)
    async with world.running() as fleet:
        await trio.sleep(5)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.stop_all)
            await trio.sleep(1)
            say(world, b"EXTEND_TIMEOUT_USEC=20000000")
        assert trio.current_time() - began <= 7.0
        assert world.processes.alive == []


async def test_a_rollout_waits_longer_for_one_that_says_it_needs_longer(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"a": "serve"}, ready=Ready.NOTIFY)
    async with world.running() as fleet:
        await trio.sleep(1)
        say(world, b"READY=1")
        await trio.sleep(1)
        changed = {name: spec.__class__(name, spec.policy, ("slow",)) for name, spec in world.specs.items()}
        fleet.follow(changed)
        fleet.rollouts.begin(("a",))
        for _ in range(4):  # 120 s are what the others have
            await trio.sleep(60)
            say(world, b"EXTEND_TIMEOUT_USEC=90000000")
        say(world, b"READY=1")
        await trio.sleep(12)
        assert fleet.rollouts.view().state == "done"
        await fleet.stop_all()
