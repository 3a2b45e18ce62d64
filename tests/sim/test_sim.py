"""A bounded share of the simulation in every run of the suite, the seeds that found something, and that it can fail at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.plan import DAY_S, Fault, Kind, draw, smaller
from tests.sim.run import Figures, run

ROOT = Path(__file__).parent.parent.parent


def hours(seed: int, count: float, *, every_s: float = 90.0) -> Figures:
    span_s = count * 3600
    return run(seed, draw(seed, span_s, every_s), span_s, opus=12, sonnet=30)


@pytest.mark.parametrize("seed", [1, 7])
def test_an_hour_of_everything_going_wrong_breaks_no_promise(seed: int) -> None:
    figures = hours(seed, 1)
    assert figures.broken is None, "\n".join((str(figures.broken), *figures.story[-40:]))
    assert not figures.bugs, figures.bugs[0]
    assert figures.counts["faults"] > 20
    assert figures.counts["kills"] > 2
    assert figures.counts["answered"] > 0.7 * figures.counts["asked"]
    assert figures.peak == 2


# What each of them found is in the name; the plan is drawn from the seed, so a changed menu of faults needs new seeds.
FOUND = {
    "a deadline of 30 s was renewed as one of 240 s by a crash": (5, 1.5),
    "slots lost with a killed daemon were noticed after three minutes": (3, 1.5),
}


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count"), FOUND.values(), ids=FOUND)
def test_a_seed_that_found_something_finds_nothing_any_more(seed: int, count: float) -> None:
    figures = hours(seed, count, every_s=60.0)
    assert figures.broken is None, "\n".join((str(figures.broken), *figures.story[-40:]))


def test_a_seed_replays_to_the_letter() -> None:
    def told() -> dict[str, object]:
        command = [sys.executable, "-m", "tests.sim", "4", "0.006", "--every", "60", "--opus", "4", "--sonnet", "8", "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return {key: value for key, value in json.loads(done.stdout).items() if key != "real_s"}

    assert told() == told()


def test_a_plan_is_drawn_from_its_seed_and_can_be_taken_apart() -> None:
    plan = draw(7, DAY_S, 600.0)
    assert plan == draw(7, DAY_S, 600.0) != draw(8, DAY_S, 600.0)
    assert {fault.kind for fault in plan} == set(Kind)
    halves = list(smaller(plan, 2))
    assert {fault for half in halves for fault in half} == set(plan)
    assert all(len(half) < len(plan) for half in halves)
    assert list(smaller((Fault(0, 1.0, Kind.KILL),), 2)) == [()]
