"""From samples to `LevelChanged`, in virtual time."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.effects import Level
from supervisord_ai.core.events import LevelChanged
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.samples import Gpu, Load, Sample
from supervisord_ai.duty import every
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.sampler import EVERY_S, Sampler
from supervisord_ai.host.machine import ProcessorState
from supervisord_ai.host.rehearsed import PLENTY_BYTES, RehearsedMachine
from supervisord_ai.store.disk import inline
from tests.fakes.machine import GB, FakeMachine, roomy

Clock = trio.abc.Clock
RESERVE = 2 * GB


class House:
    """A sampler and a ladder over a made-up machine."""

    def __init__(self, policy: LevelsPolicy | None = None) -> None:
        self.machine = FakeMachine()
        self.load = Load()
        self.told: list[LevelChanged] = []
        clock = VirtualClock()
        self.ladder = Ladder(policy or LevelsPolicy(), reserve_bytes=RESERVE, tell=self.told.append, clock=clock)
        self.sampler = Sampler(
            self.machine, load=lambda: self.load, tell=self.ladder.take, clock=clock, run_sync=inline
        )

    async def live(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await every(EVERY_S, "sampling", self.sampler.sample)

    def free(self, size_bytes: float) -> None:
        self.machine.memory_state = replace(roomy(), available_bytes=round(size_bytes))


async def test_a_machine_that_runs_its_plan_for_an_hour_stays_at_level_0(autojump_clock: Clock) -> None:
    house, seeded = House(), random.Random(3)
    house.machine.cards = (Gpu("RTX 3050", 4 * GB, round(3.5 * GB), 0.98),)
    began_at, levels = trio.current_time(), set[Level]()
    while trio.current_time() < began_at + 3600:
        # 131 agents within their caps, both slots busy at every instant, a backlog that breathes.
        second = trio.current_time() - began_at
        house.free(7 * GB + seeded.uniform(-0.5, 0.5) * GB)
        house.machine.processor_state = ProcessorState(8, second * 3, second * 8, seeded.choice((1, 2, 5, 8, 14)))
        wait_s = seeded.uniform(20, 110)
        house.load = Load(seeded.randint(5, 40), 2, 2, seeded.uniform(0, 100), wait_s, wait_s / 240)
        await house.sampler.sample()
        levels.add(house.ladder.level)
        await trio.sleep(1)
    assert levels == {Level.NORMAL}
    assert house.told == []
    assert len(house.sampler.ring) == 3600
    sample = house.sampler.latest
    assert sample is not None
    assert (sample.load.running, sample.load.slots) == (2, 2)
    assert sample.machine.gpus is not None
    assert sample.machine.gpus[0].used == pytest.approx(0.875)


async def test_a_squeeze_climbs_and_comes_back_and_every_change_is_told_once(autojump_clock: Clock) -> None:
    house = House()
    await house.live(30)
    assert house.told == []
    house.free(0.7 * GB)
    await house.live(60)
    assert house.ladder.level is Level.CRITICAL
    house.free(40 * GB)
    await house.live(300)
    assert [(int(told.before), int(told.after)) for told in house.told] == [(0, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0)]
    assert [told.cause for told in house.told[:3]] == ["memory"] * 3
    assert "700 MB available" in house.told[2].reason
    assert all(earlier.at <= later.at for earlier, later in pairwise(house.told))


async def test_the_owner_pins_a_level_for_a_time(autojump_clock: Clock) -> None:
    house = House()
    house.ladder.pin(Level.MAJOR, for_s=600)
    assert [(told.after, told.cause) for told in house.told] == [(Level.MAJOR, "owner")]
    await house.live(599)
    view = house.ladder.statistics()
    assert (view.level, view.decided) == (Level.MAJOR, Level.NORMAL)
    assert view.pin is not None
    assert view.pin.left_s == pytest.approx(1.0, abs=1.1)
    await house.live(3)
    assert house.ladder.level is Level.NORMAL
    assert len(house.told) == 2


async def test_what_is_shown_says_what_is_pressed_and_what_brings_it_down(autojump_clock: Clock) -> None:
    house = House()
    house.free(2.2 * GB)
    await house.live(40)
    view = house.ladder.statistics()
    assert view.level is Level.MINOR
    memory = next(one for one in view.components if one.name == "memory")
    assert memory.pressure == pytest.approx(0.78)
    assert memory.why == "2,200 MB available, 1.1 times the reserve of 2,000 MB"
    assert view.down_in_s == pytest.approx(60 - view.since_s, abs=1.5)
    assert [(step.enters_at, round(step.leaves_below, 2)) for step in view.steps] == [(0.6, 0.5), (0.8, 0.7), (0.95, 0.85)]


async def test_sensors_that_say_nonsense_change_no_level(autojump_clock: Clock) -> None:
    house = House()
    house.machine.memory_state = OSError("gone")
    house.machine.processor_state = ValueError("nonsense")
    await house.live(120)
    assert house.told == []


async def test_a_ladder_that_has_seen_nothing_shows_so(autojump_clock: Clock) -> None:
    view = House().ladder.statistics()
    assert (view.level, view.components, view.down_in_s) == (Level.NORMAL, (), None)


async def test_in_a_rehearsal_nothing_of_a_machine_decides_the_level(autojump_clock: Clock) -> None:
    """Neither this machine's memory, processors and cards nor the lack of them: only what is rehearsed."""
    clock, told, samples = VirtualClock(), list[LevelChanged](), list[Sample]()
    ladder = Ladder(LevelsPolicy(), reserve_bytes=128 * GB, tell=told.append, clock=clock)
    load = Load(queued=5, running=2, slots=2)

    def take(sample: Sample) -> None:
        samples.append(sample)
        ladder.take(sample)

    sampler = Sampler(RehearsedMachine(), load=lambda: load, tell=take, clock=clock, run_sync=inline)
    with trio.move_on_after(600):
        await every(EVERY_S, "sampling", sampler.sample)
    assert told == []
    machine = samples[-1].machine
    assert (machine.busy, machine.available_bytes, machine.gpus) == (0.0, PLENTY_BYTES, None)
    load = replace(load, queued=100_000, oldest_s=100_000.0, wait_s=100_000.0, wait_share=100.0)
    with trio.move_on_after(600):
        await every(EVERY_S, "sampling", sampler.sample)
    assert told[0].after > Level.NORMAL  # a load that is rehearsed does
