"""Samples come every second; a sensor that is lost is missed once and found back."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import pytest
import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.samples import Load, Psi, Sample
from supervisord_ai.duty import every
from supervisord_ai.health import sampler as sampler_module
from supervisord_ai.health.sampler import EVERY_S, Gauge, Sampler
from supervisord_ai.host.machine import FleetState, MemoryState, Pressures, ProcessorState
from supervisord_ai.store.disk import inline
from tests.fakes.machine import FakeMachine, roomy

Clock = trio.abc.Clock


def sampler_of(machine: FakeMachine, samples: list[Sample], load: Load | None = None) -> Sampler:
    return Sampler(machine, load=lambda: load or Load(), tell=samples.append, clock=VirtualClock(), run_sync=inline)


async def test_a_sample_a_second_for_an_hour(autojump_clock: Clock) -> None:
    samples: list[Sample] = []
    sampler = sampler_of(FakeMachine(), samples, Load(queued=7))
    with trio.move_on_after(3700):
        await every(EVERY_S, "sampling", sampler.sample)
    assert len(samples) == pytest.approx(3700, abs=2)
    assert len(sampler.ring) == 3600
    assert sampler.latest is samples[-1]
    assert samples[5].load.queued == 7
    assert samples[5].at - samples[4].at == pytest.approx(1.0)


async def test_a_sensor_that_is_lost_is_none_is_said_once_and_comes_back(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine, samples = FakeMachine(), list[Sample]()
    sampler = sampler_of(machine, samples)
    for state in (roomy(), None, None, ValueError("nonsense"), roomy()):
        machine.memory_state = state
        await sampler.sample()
    assert [sample.machine.available_bytes for sample in samples] == [40_000_000_000, None, None, None, 40_000_000_000]
    assert [sample.machine.cores for sample in samples] == [8] * 5  # the others go on
    told = [record.message for record in caplog.records]
    assert told == ["the memory of this machine is not told any more", "the memory of this machine is told again"]


async def test_what_a_machine_never_had_is_not_missed(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    sampler = sampler_of(FakeMachine(), [])
    await sampler.sample()
    await sampler.sample()
    assert caplog.records == []


def test_counters_become_rates_since_the_reading_before() -> None:
    machine = FakeMachine(memory_state=MemoryState(100, 50, 0, 0, 1000), processor_state=ProcessorState(4, 10.0, 100.0, 1))
    machine.fleet_state = FleetState(5, ooms=3, limit_hits=10, pressures=Pressures(cpu=Psi(0.5, 0.0)))
    gauge = Gauge(machine)
    first = gauge.read(0.0)
    assert (first.refaults_per_s, first.busy, first.fleet_ooms, first.fleet_limit_hits) == (None, None, 0, 0)
    machine.memory_state = MemoryState(100, 50, 0, 0, 5000)
    machine.processor_state = ProcessorState(4, 12.0, 108.0, 1)
    machine.fleet_state = replace(machine.fleet_state, ooms=4, limit_hits=12)
    second = gauge.read(2.0)
    assert (second.refaults_per_s, second.busy, second.fleet_ooms, second.fleet_limit_hits) == (2000.0, 0.25, 1, 2)
    assert second.fleet_cpu == Psi(0.5, 0.0)


def test_counters_that_run_backwards_tell_nothing_and_do_no_harm() -> None:
    machine = FakeMachine(memory_state=MemoryState(100, 50, 0, 0, 1000), processor_state=ProcessorState(4, 10.0, 100.0, 1))
    gauge = Gauge(machine)
    gauge.read(5.0)
    machine.memory_state = MemoryState(100, 50, 0, 0, 10)
    machine.processor_state = ProcessorState(4, 9.0, 101.0, 1)
    back = gauge.read(5.0)
    assert (back.busy, back.refaults_per_s) == (None, None)
    assert gauge.read(6.0).busy is None  # no time passed for the processors


class Hanging(FakeMachine):
    """A driver that does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def gpus(self, now: float) -> None:
        self.let_go.wait(30)


async def test_a_reading_that_hangs_holds_up_neither_the_samples_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "HANGS_AFTER_S", 0.05)
    machine, samples = Hanging(), list[Sample]()
    sampler = Sampler(machine, load=Load, tell=samples.append, clock=VirtualClock())
    began_at = time.monotonic()
    try:
        await sampler.sample()
        await sampler.sample()
    finally:
        machine.let_go.set()
    assert time.monotonic() - began_at < 20
    assert [sample.machine.available_bytes for sample in samples] == [None, None]
