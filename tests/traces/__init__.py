"""What machines went through, a line a second: files for the ladder (`health/ring.py` has the form).

`crowded` was recorded with `bench.sampler --record`. The others are written down by `python -m tests.traces`, since nobody waits
for a machine to run out of memory in exactly this way; each says in its first line what happens in it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from supervisord_ai.core.samples import Load, Machine, Sample
from supervisord_ai.health.ring import read_trace, trace_of

FOLDER = Path(__file__).parent
GB = 1_000_000_000
NAMES = ("at", "cores", "runnable", "total_bytes", "available_bytes", "queued", "wait_s", "wait_share")
CALM = Machine(cores=8, runnable=2, total_bytes=48 * GB, available_bytes=12 * GB)


def read(name: str) -> list[Sample]:
    """Read a trace by its name."""
    return read_trace((FOLDER / f"{name}.csv").read_text())


def waiting(share: float) -> Load:
    """A backlog in which one who comes now waits so much of 240 s."""
    return Load(queued=round(share * 96), running=2, slots=2, wait_s=round(share * 240, 1), wait_share=round(share, 4))


def idle() -> Iterator[Sample]:
    """Nobody asks anything; now and then something wakes up."""
    seeded = random.Random(1)
    for second in range(600):
        wakes = seeded.choice((0, 0, 0, 1, 2, 12))
        yield Sample(float(second), 0.0, replace(CALM, runnable=wakes), waiting(0.0))


def ramp() -> Iterator[Sample]:
    """The backlog fills within five minutes, stays full for two, and is worked off in four; then five quiet minutes."""
    for second in range(960):
        share = min(1.0, second / 300) if second < 420 else max(0.0, 1.0 - (second - 420) / 240)
        yield Sample(float(second), 0.0, CALM, waiting(share))


def spike() -> Iterator[Sample]:
    """A program takes all memory but half of the reserve at 60 s, for 20 s, and gives it back."""
    for second in range(420):
        free = 0.8 * GB if 60 <= second < 80 else 12 * GB
        yield Sample(float(second), 0.0, replace(CALM, available_bytes=round(free)), waiting(0.1))


def sawtooth() -> Iterator[Sample]:
    """The backlog goes up and down around the threshold of level 1 every 20 s, with noise, for twenty minutes."""
    seeded = random.Random(42)
    for second in range(1200):
        tooth = abs(second % 20 - 10) / 10
        yield Sample(float(second), 0.0, CALM, waiting(0.35 + 0.5 * tooth + seeded.uniform(-0.1, 0.1)))


def sensor_lost() -> Iterator[Sample]:
    """Memory is short from 30 s on, its sensor is lost at 90 s, and at 400 s tells that there is plenty."""
    for second in range(600):
        free = None if 90 <= second < 400 else round(2.5 * GB) if 30 <= second < 90 else 12 * GB
        yield Sample(float(second), 0.0, replace(CALM, available_bytes=free), waiting(0.1))


def clock_step() -> Iterator[Sample]:
    """Level 1 from 20 s on; the clock jumps an hour ahead at 60 s and two hours back at 90 s; quiet from 100 s on."""
    for second in range(300):
        at = second + (3600 if second >= 60 else 0) - (7200 if second >= 90 else 0)
        yield Sample(float(at), 0.0, CALM, waiting(0.75 if 20 <= second < 100 else 0.05))


def plan() -> Iterator[Sample]:
    """A machine that runs its plan: both slots busy, a short backlog that breathes, a quarter of the memory free."""
    seeded = random.Random(7)
    for second in range(600):
        share = 0.25 + 0.15 * math.sin(second / 40) + seeded.uniform(-0.05, 0.05)
        yield Sample(float(second), 0.0, replace(CALM, runnable=seeded.randint(0, 9)), waiting(share))


MADE: dict[str, Callable[[], Iterator[Sample]]] = {
    "idle": idle,
    "ramp": ramp,
    "spike": spike,
    "sawtooth": sawtooth,
    "sensor_lost": sensor_lost,
    "clock_step": clock_step,
    "plan": plan,
}


def again(samples: Iterator[Sample]) -> list[Sample]:
    """Samples as they are read back once they were written down."""
    return read_trace(trace_of(samples, NAMES))


def write() -> None:
    """Write down those that are made."""
    for name, made in MADE.items():
        (FOLDER / f"{name}.csv").write_text(f"# {made.__doc__}\n" + trace_of(made(), NAMES))
