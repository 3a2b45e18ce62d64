"""An hour of samples in a few columns, and the same as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.samples import Gpu, Load, Machine, Psi, Sample
from supervisord_ai.health.ring import FIGURES, Ring, read_trace, trace_of

FULL = Sample(
    at=12.5,
    wall=1_800_000_012.5,
    machine=Machine(
        cores=8,
        busy=0.5,
        runnable=3,
        total_bytes=48_000_000_000,
        available_bytes=20_000_000_000,
        swap_used_bytes=4096,
        refaults_per_s=8.0,
        cpu=Psi(0.25, 0.0),
        memory=Psi(0.5, 0.0),
        fleet_bytes=1_000_000,
        fleet_cpu=Psi(0.125, 0.0),
        fleet_memory=Psi(0.75, 0.0),
        gpus=(Gpu("a", 4000, 1000, 0.5), Gpu("b", 4000, 3500, 0.25)),
    ),
    load=Load(queued=4, running=2, slots=2, oldest_s=3.5, wait_s=60.0, wait_share=0.25),
)


def test_the_ring_keeps_the_last_hour_and_forgets_what_is_older() -> None:
    ring = Ring(3)
    for second in range(5):
        ring.add(replace(FULL, at=float(second), load=Load(queued=second)))
    assert len(ring) == 3
    assert ring.column("at") == [2.0, 3.0, 4.0]
    assert ring.column("queued", last=2) == [3.0, 4.0]
    assert [sample.at for sample in ring.samples()] == [2.0, 3.0, 4.0]


def test_what_was_not_known_stays_unknown() -> None:
    ring = Ring(2)
    ring.add(Sample(1.0, 2.0))
    assert ring.column("available_bytes") == [None]
    assert next(iter(ring.samples())).machine == Machine()


def test_an_hour_of_it_is_small() -> None:
    assert Ring().bytes < 400_000


def test_a_trace_says_what_the_samples_said() -> None:
    (again,) = read_trace(trace_of([FULL]))
    shown = {name: figure(FULL) for name, figure in FIGURES.items()}
    assert {name: figure(again) for name, figure in FIGURES.items()} == shown
    ring = Ring(2)
    ring.add(FULL)
    replayed = next(iter(ring.samples()))
    assert {name: figure(replayed) for name, figure in FIGURES.items()} == pytest.approx(shown, rel=1e-6)


def test_a_trace_may_name_only_some_figures_and_hold_notes() -> None:
    (sample,) = read_trace("# a note\nat,available_bytes,wait_share\n5,1000,\n")
    assert sample == Sample(5.0, 0.0, Machine(available_bytes=1000), Load(wait_s=None, wait_share=None))
    with pytest.raises(ValueError, match="no figure is called nonsense"):
        read_trace("at,nonsense\n1,2\n")
