"""One run from a seed: deterministic scheduling, virtual time, a folder of its own."""

from __future__ import annotations

import gc
import logging
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from trio._core import _run as scheduling

from tests.sim.befall import live_through
from tests.sim.clock import Leaps
from tests.sim.invariants import Broken
from tests.sim.plan import Fault, Span, bursts
from tests.sim.upstream import SLOTS
from tests.sim.world import World

TOLD = ("supervisord_ai.gateway.upkeep", "supervisord_ai.gateway.backends", "supervisord_ai.health.ladder")  # in a story


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to. `real_s` and `cpu_s` are what it took; `looks` were made once a second, `busy_looks` at full slots."""

    seed: int
    virtual_s: float
    busy_s: float
    real_s: float
    cpu_s: float
    counts: dict[str, int]
    calls: int
    lives: int
    peak: int
    looks: int
    busy_looks: float
    levels: dict[str, int]
    strides: int
    p50_s: float
    p95_s: float
    reasons: dict[str, int]
    broken: Broken | None = None
    bugs: tuple[str, ...] = ()
    story: tuple[str, ...] = ()  # what happened last


def run(seed: int, faults: Sequence[Fault], span: Span, *, opus: int = 36, sonnet: int = 95) -> Figures:
    """Run it to its end or to the first broken promise."""
    # Trio shuffles its run queue by this generator, so that nobody relies on an order; we rely on the same disorder.
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduling._r = random.Random(seed)
    bugs: list[str] = []
    worlds: list[World] = []
    listening = _Listening(bugs, lambda what: worlds[0].tell(what) if worlds else None)
    root = logging.getLogger()
    root.addHandler(listening)
    told = [logging.getLogger(name) for name in TOLD]
    for logger in told:
        logger.setLevel(logging.INFO)
    began_at, cpu_at = time.monotonic(), time.process_time()
    leaps = Leaps()
    asked = bursts(seed, span)
    calm_gc = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    folder = Path(tempfile.mkdtemp(prefix="ai-sim-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    async def main() -> None:
        world = World(seed, span, folder, leaps, opus=opus, sonnet=sonnet, bugs=bugs)
        worlds.append(world)
        await world.run(partial(live_through, faults=tuple(faults)), asked, [fault.at_s for fault in faults])

    broken: Broken | None = None
    try:
        trio.run(main, clock=leaps.clock, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        found = _broken_in(group)
        if found is None:
            raise
        broken = found
    finally:
        root.removeHandler(listening)
        for logger in told:
            logger.setLevel(logging.NOTSET)
        gc.set_threshold(*calm_gc)
        gc.unfreeze()
        shutil.rmtree(folder, ignore_errors=True)
    (world,) = worlds
    waits = sorted(world.watch.waits) or [0.0]
    return Figures(
        seed=seed,
        virtual_s=span.all_s,
        busy_s=span.busy_s,
        real_s=time.monotonic() - began_at,
        cpu_s=time.process_time() - cpu_at,
        counts=dict(world.counts),
        calls=world.upstream.calls,
        lives=world.lives,
        peak=world.upstream.peak,
        looks=world.watch.looks,
        busy_looks=world.watch.busy / SLOTS,
        levels={str(int(level)): seconds for level, seconds in sorted(world.watch.levels.items())},
        strides=leaps.strides,
        p50_s=waits[len(waits) // 2],
        p95_s=waits[len(waits) * 95 // 100],
        reasons=dict(world.watch.reasons.most_common(12)),
        broken=broken,
        bugs=tuple(bugs),
        story=tuple(world.story),
    )


class _Listening(logging.Handler):
    """Takes what the daemon logs: an exception of its own that it caught is a bug, whatever became of the request."""

    def __init__(self, found: list[str], tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._found = found
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        if record.name in TOLD:
            self._tell(f"  {record.getMessage()}")
        if record.levelno < logging.ERROR:
            return
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._found.append(f"{record.getMessage()}\n{''.join(traceback.format_exception(record.exc_info[1]))}")


def _broken_in(group: BaseExceptionGroup[BaseException]) -> Broken | None:
    for inner in group.exceptions:
        if isinstance(inner, Broken):
            return inner
        if isinstance(inner, BaseExceptionGroup) and (found := _broken_in(inner)) is not None:
            return found
    return None
