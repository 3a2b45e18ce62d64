"""A supervisor goes, and the Ollama that it kept stays with its models; the next one keeps it, or ends it and starts its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.launches import EngineLaunch
from supervisord_ai.agents.managed import EngineState, Kept, ManagedEngine
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.policies import LogsPolicy, RestartPolicy
from supervisord_ai.errors import UpstreamUnreachable
from supervisord_ai.host.signals import KILL
from tests.fakes.process import FakeProcess, Program
from tests.shell.test_fleet import World

NAME = "engine-main"
ENVIRON = {"OLLAMA_NUM_PARALLEL": "2"}


@dataclass
class House:
    """One machine, on which one supervisor follows another."""

    world: World

    @property
    def alive(self) -> list[FakeProcess]:
        return [process for process in self.world.processes.alive if process.launch.argv == ("ollama", "serve")]

    def keeper(self, environ: Mapping[str, str] = ENVIRON, cap_bytes: int = 8_000) -> ManagedEngine:
        world = self.world
        launch = EngineLaunch(NAME, ("ollama", "serve"), environ, "http://127.0.0.1:11434", cap_bytes=cap_bytes)
        kept = Kept(world.cages.cage(NAME), world.journal, world.processes.boot, is_only_sampled=False)
        return ManagedEngine(
            launch,
            processes=world.processes,
            logs=LogFolder(world.log_dir, LogsPolicy()),
            clock=VirtualClock(),
            restart=RestartPolicy(),
            rng=random.Random(1),
            kept=kept,
        )

    async def probe(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.alive:
            raise UpstreamUnreachable("connection refused")

    @asynccontextmanager
    async def supervised(self, engine: ManagedEngine, *, leaves: bool = True) -> AsyncIterator[ManagedEngine]:
        """As the daemon nests them: the agents are settled before an engine's task begins, and outlive it."""
        self.world.engines = {NAME: engine}
        async with self.world.running() as fleet, trio.open_nursery() as nursery:
            await nursery.start(engine.run, self.probe)
            yield engine
            if leaves:
                fleet.leave()
                engine.let_be()
            nursery.cancel_scope.cancel()


@pytest.fixture
def house(tmp_path: Path) -> House:
    world = World(tmp_path, {})
    world.processes.programs["ollama"] = Program(stray=Program())
    return House(world)


async def test_it_goes_on_with_its_process_number_and_runners(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()) as engine:
        pid = engine.pid
    everybody = [process.pid for process in house.world.processes.alive]
    async with house.supervised(house.keeper(cap_bytes=9_000)) as engine:
        assert (engine.statistics().state, engine.pid) == (EngineState.READY, pid)
        assert [process.pid for process in house.world.processes.alive] == everybody
        assert house.world.journal.records[NAME].generation == 1
        assert house.world.cages.cage(NAME).cap_bytes == 9_000  # a cap that changed meanwhile binds at once
    assert house.world.journal.ends == []


async def test_its_end_is_seen_and_judged_by_what_was_counted_at_its_start(house: House, autojump_clock: MockClock) -> None:
    kills = house.world.processes.oom_kills
    kills[f"/fake/{NAME}"] = 3  # in its group, before it began
    async with house.supervised(house.keeper()):
        pass
    async with house.supervised(house.keeper()) as engine:
        first = engine.pid
        kills[f"/fake/{NAME}"] += 1
        house.world.cages.cage(NAME).peak_bytes = 8_000
        house.alive[0].signal(KILL)
        await trio.sleep(10.0)
        assert house.world.journal.verdicts(NAME) == ["oom:own-cap"]
        assert engine.pid not in {first, None}
        assert len(house.alive) == 2, "it and its runner; the runner of the first was ended with it"
        assert (engine.statistics().state, engine.statistics().restarts) == (EngineState.READY, 1)


async def test_one_that_would_be_started_otherwise_now_is_ended_first(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()) as engine:
        pid = engine.pid
    async with house.supervised(house.keeper({"OLLAMA_NUM_PARALLEL": "4"})) as engine:
        assert engine.pid != pid
        assert len(house.alive) == 2
    assert house.world.journal.verdicts(NAME) == ["lost-while-down"]


async def test_one_that_was_being_ended_is_not_kept(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()) as engine:
        pid = engine.pid
    house.world.journal.intent(NAME, 1, "it accepts and does not answer")
    async with house.supervised(house.keeper()) as engine:
        assert engine.pid != pid
        assert len(house.alive) == 2


async def test_one_that_nobody_keeps_any_more_is_ended(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()):
        pass
    house.world.engines = {}
    async with house.world.running():
        assert house.alive == []


async def test_after_a_full_stop_nothing_of_it_is_left(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()):
        pass
    async with house.supervised(house.keeper(), leaves=False):
        assert len(house.alive) == 2
    assert house.world.processes.alive == []
    assert house.world.journal.verdicts(NAME) == ["stopped:shutdown"]


async def test_one_that_ended_meanwhile_is_written_down_and_started_anew(house: House, autojump_clock: MockClock) -> None:
    async with house.supervised(house.keeper()):
        pass
    for process in house.world.processes.alive:
        process.signal(KILL)
    async with house.supervised(house.keeper()) as engine:
        assert engine.statistics().state is EngineState.READY
    assert house.world.journal.verdicts(NAME) == ["lost-while-down"]
