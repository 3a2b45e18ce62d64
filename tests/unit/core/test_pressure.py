"""Figures of a machine as pressure: 0 nobody waits, 1 a promise breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.pressure import Component, Pressed, Pressure, memory_pressure, pressure_of
from supervisord_ai.core.samples import Gpu, Load, Machine, Psi, Sample

GB = 1_000_000_000
RESERVE = 2 * GB


def pressed(component: Component, machine: Machine = Machine(), load: Load = Load()) -> Pressed:  # noqa: B008 - frozen
    return dict(pressure_of(Sample(0.0, 0.0, machine, load), reserve_bytes=RESERVE))[component]


@pytest.mark.parametrize(
    ("reserves", "pressure"),
    [(20.0, 0.0), (3.0, 0.0), (2.5, 0.3), (2.0, 0.6), (1.5, 0.7), (1.0, 0.8), (0.75, 0.875), (0.5, 0.95), (0.25, 0.975), (0, 1)],
)
def test_memory_is_the_distance_to_the_floor(reserves: float, pressure: float) -> None:
    found = memory_pressure(Machine(available_bytes=round(reserves * RESERVE)), RESERVE)
    assert found.value == pytest.approx(pressure)


def test_memory_says_its_figures() -> None:
    found = memory_pressure(Machine(available_bytes=3 * GB), RESERVE)
    assert found.why == "3,000 MB available, 1.5 times the reserve of 2,000 MB"
    assert memory_pressure(Machine(), RESERVE) == Pressed(None, "free memory is not known")
    assert memory_pressure(Machine(available_bytes=1), 0).value == 0.0


@given(st.integers(0, 100 * GB), st.integers(0, 100 * GB))
def test_less_memory_is_never_less_pressure(one: int, other: int) -> None:
    less, more = sorted((one, other))
    values = [memory_pressure(Machine(available_bytes=free), RESERVE).value for free in (less, more)]
    assert values[0] is not None
    assert values[1] is not None
    assert 0 <= values[1] <= values[0] <= 1


@pytest.mark.parametrize(
    ("machine", "pressure"),
    [
        (Machine(cores=8, runnable=0), 0.0),
        (Machine(cores=8, runnable=8), 0.0),
        (Machine(cores=8, runnable=16), 0.5),
        (Machine(cores=8, runnable=20), 0.6),
        (Machine(cores=8, runnable=40), 0.8),
        (Machine(cores=8, runnable=160), 0.95),
        (Machine(cores=8, runnable=40, cpu=Psi(0.3, 0.0)), 0.3),  # somebody waits, but seldom
        (Machine(cores=8, runnable=9, cpu=Psi(1.0, 0.0)), 1 / 9),  # somebody waits always, but not for long
        (Machine(cores=8, runnable=40, cpu=Psi(1.0, 0.0), fleet_cpu=Psi(0.1, 0.0)), 0.1),  # it is not the agents who wait
        (Machine(cores=8, cpu=Psi(0.4, 0.0)), 0.4),
        (Machine(cores=8), None),
    ],
)
def test_the_processors_are_pressed_by_how_much_was_not_given(machine: Machine, pressure: float | None) -> None:
    assert pressed(Component.CPU, machine).value == (None if pressure is None else pytest.approx(pressure))


@pytest.mark.parametrize(
    ("load", "pressure"),
    [
        (Load(), 0.0),
        (Load(queued=10, wait_s=120.0, wait_share=0.5), 0.5),
        (Load(queued=10, wait_s=600.0, wait_share=2.5), 1.0),
        (Load(queued=10, wait_s=None, wait_share=None), None),
    ],
)
def test_the_queue_is_pressed_by_the_wait_over_the_deadline(load: Load, pressure: float | None) -> None:
    assert pressed(Component.QUEUE, load=load).value == pressure


def test_busy_slots_and_graphics_memory_are_no_pressure() -> None:
    idle = Machine(cores=8, runnable=1, available_bytes=40 * GB)
    full = replace(idle, gpus=(Gpu("card", 4 * GB, 4 * GB, 1.0),), busy=1.0)
    busy = pressure_of(Sample(0.0, 0.0, full, Load(running=2, slots=2)), reserve_bytes=RESERVE)
    assert [pressed.value for _, pressed in busy] == [0.0, 0.0, 0.0]


def test_pressure_names_its_components() -> None:
    one = Pressed(0.0, "")
    assert [component for component, _ in Pressure(one, one, one)] == list(Component)


@pytest.mark.parametrize(
    ("load", "value", "why"),
    [
        (Load(), 0.0, "nobody waits"),
        (Load(wait_share=0.7), 0.0, "nobody waits"),
        (Load(queued=3, wait_s=9.0, wait_share=0.5), 0.5, "3 waiting, about 9 s for one who comes now: 50% of the time there is"),
        (Load(queued=1, wait_s=None, wait_share=1.0), 1.0, "1 waiting, nothing can be estimated: 100% of the time there is"),
        (Load(queued=1, wait_share=None), None, "the wait is not known"),
    ],
)
def test_the_queue_says_who_waits_and_for_how_long(load: Load, value: float | None, why: str) -> None:
    assert pressed(Component.QUEUE, load=load) == Pressed(value, why)


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (Machine(cores=8, runnable=40), "40 want one of 8 cores"),
        (Machine(cores=8, runnable=40, cpu=Psi(0.3, 0.0)), "40 want one of 8 cores, somebody waits 30% of the time"),
        (Machine(cores=8, runnable=40, fleet_cpu=Psi(0.1, 0.0)), "40 want one of 8 cores, an agent waits 10% of the time"),
        (Machine(cores=8, cpu=Psi(0.4, 0.0)), "somebody waits for a core 40% of the time"),
        (Machine(cores=8), "who waits for a core is not known"),
    ],
)
def test_the_processors_say_who_waits_and_how_much(machine: Machine, why: str) -> None:
    assert pressed(Component.CPU, machine).why == why
