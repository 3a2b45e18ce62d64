"""A bounded share of the simulation in every run of the suite, the plans that found something, and that it can fail at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.ollama_double import Script
from tests.sim import year
from tests.sim.plan import DAY_S, Fault, Kind, Span, bursts, draw, smaller
from tests.sim.run import Figures, run
from tests.sim.upstream import Upstream

ROOT = Path(__file__).parent.parent.parent


def told(figures: Figures) -> str:
    return "\n".join((str(figures.broken), *figures.story[-40:]))


def lived(faults: tuple[Fault, ...], busy_s: float, seed: int = 1) -> Figures:
    return run(seed, faults, Span(busy_s), opus=6, sonnet=20)


@pytest.mark.parametrize("seed", [1, 7])
def test_half_an_hour_of_everything_going_wrong_breaks_no_promise(seed: int) -> None:
    span = Span(1800.0, busy_fault_every_s=40.0)
    figures = run(seed, draw(seed, span), span, opus=12, sonnet=30)
    assert figures.broken is None, told(figures)
    assert not figures.bugs, figures.bugs[0]
    assert figures.counts["faults"] > 15
    assert figures.counts["answered"] > 0.6 * figures.counts["asked"]
    assert figures.peak == 2


def test_days_of_idleness_are_lived_in_strides_and_whoever_asks_meanwhile_is_answered() -> None:
    span = Span(0.0, 2 * DAY_S, idle_fault_every_s=6 * 3600.0)
    figures = run(3, draw(3, span), span, opus=6, sonnet=20)
    assert figures.broken is None, told(figures)
    assert figures.strides > 300
    assert figures.counts["answered"] > 50
    assert figures.looks < 40_000  # of 172,800 seconds


def plan(*faults: tuple[float, Kind, float]) -> tuple[Fault, ...]:
    return tuple(Fault(number, *fault) for number, fault in enumerate(sorted(faults)))


# What each of them found is in the name. They are written down, so that another menu of faults, or other callers, change nothing.
FOUND = {
    "a deadline of 30 s was renewed as one of 240 s by a crash": plan(
        (190.0, Kind.FLOOD, 60.0), *((194.0 + n, Kind.SPIKE, 0.0) for n in range(4)), (200.0, Kind.KILL, 0.0),
        (200.5, Kind.ENGINE_CRASH, 115.0),
    ),
    "who held a slot that was lost held up everybody else for ten minutes": plan(
        (200.0, Kind.LOST_SLOT, 0.0), (200.2, Kind.LOST_SLOT, 0.0), (202.0, Kind.SPIKE, 0.0), (420.0, Kind.SPIKE, 0.0)
    ),
    "who had asked asynchronously was told that it was cancelled because it is whole": plan((200.0, Kind.ENGINE_REFUSES, 60.0)),
    "an answer that a full disk refused was told as cancelled": plan((200.0, Kind.DISK_FULL, 90.0)),
}


# What gives the promises of the order their work: of one right and of several, for models that do not fit together, for nobody.
CROWD = plan(
    (130.0, Kind.FLOOD, 40.0), (140.0, Kind.SPIKE, 0.0), (150.0, Kind.GUESTS, 8.0), (200.0, Kind.BAD_RELOAD, 0.0),
    (210.0, Kind.SMALL_CARD, 200.0), (240.0, Kind.SPIKE, 0.0), (260.0, Kind.GUESTS, 8.0), (270.0, Kind.BAD_RELOAD, 0.0),
    (280.0, Kind.SMALL_CARD, 120.0), (300.0, Kind.SPIKE, 0.0), (310.0, Kind.BAD_RELOAD, 0.0), (330.0, Kind.FLOOD, 60.0),
    (360.0, Kind.SPIKE, 0.0), (380.0, Kind.GUESTS, 8.0), (590.0, Kind.WRONG, 26.0), (640.0, Kind.WRONG, 26.0),
    (750.0, Kind.ENGINE_HANG, 80.0), (755.0, Kind.SPIKE, 0.0),
)  # fmt: skip


def test_a_crowd_is_served_in_its_order_by_models_that_do_not_fit_together() -> None:
    figures = lived(CROWD, 900.0)
    assert figures.broken is None, told(figures)
    assert not figures.bugs, figures.bugs[0]
    assert figures.counts["answered"] > 400


ROLLOUTS = plan(
    (130.0, Kind.ROLLOUT, 0.0), (140.0, Kind.SPIKE, 0.0), (250.0, Kind.BAD_ROLLOUT, 0.0), (400.0, Kind.ROLLOUT, 0.0),
    (415.0, Kind.KILL, 0.0), (450.0, Kind.AGENT_CRASH, 2.0), (600.0, Kind.BAD_ROLLOUT, 0.0), (602.5, Kind.POWER_CUT, 0.0),
    (760.0, Kind.BAD_ROLLOUT, 0.0), (761.0, Kind.LEAVE, 0.0),
)  # fmt: skip


SAYS = plan(
    *((130.0 + 25 * n, Kind.SPIKE, 0.0) for n in range(22)),
    *((140.0 + 40 * n, Kind.OWNER, n % 7 / 7 + 0.01) for n in range(14)),
)


def test_whatever_its_owner_says_is_done_and_costs_nobody_else_an_answer() -> None:
    figures = lived(SAYS, 720.0)
    assert figures.broken is None, told(figures)
    assert not figures.bugs, figures.bugs[0]
    assert sum(name.startswith("owner: ") for name in figures.counts) == 7
    assert figures.counts["cancelled by the owner"] > 1


def test_rollouts_go_through_or_back_whatever_dies_meanwhile() -> None:
    figures = lived(ROLLOUTS, 900.0)
    assert figures.broken is None, told(figures)
    assert not figures.bugs, figures.bugs[0]
    assert figures.counts["rollouts"] >= 4
    assert figures.counts["rollouts that were done"] >= 2
    assert figures.counts["rollouts that were rolled back"] >= 2


@pytest.mark.long
@pytest.mark.parametrize("faults", FOUND.values(), ids=FOUND)
def test_a_plan_that_found_something_finds_nothing_any_more(faults: tuple[Fault, ...]) -> None:
    figures = lived(faults, 700.0)
    assert figures.broken is None, told(figures)


def test_a_seed_replays_to_the_letter() -> None:
    def replayed() -> dict[str, object]:
        command = [sys.executable, "-m", "tests.sim", "4", "0.006", "--every", "60", "--opus", "4", "--sonnet", "8", "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return {key: value for key, value in json.loads(done.stdout).items() if key not in {"real_s", "cpu_s"}}

    assert replayed() == replayed()


def test_a_plan_is_drawn_from_its_seed_and_can_be_taken_apart() -> None:
    day = Span(DAY_S, busy_fault_every_s=100.0)
    drawn = draw(7, day)
    assert drawn == draw(7, day) != draw(8, day)
    assert {fault.kind for fault in drawn} == set(Kind)
    halves = list(smaller(drawn, 2))
    assert {fault for half in halves for fault in half} == set(drawn)
    assert all(len(half) < len(drawn) for half in halves)
    assert list(smaller((Fault(0, 1.0, Kind.KILL),), 2)) == [()]


def test_a_year_is_the_sum_of_its_parts() -> None:
    span = year.span_of(112)
    assert 112 * span.busy_s == pytest.approx(14 * DAY_S)
    assert 112 * span.all_s == pytest.approx(365 * DAY_S)
    drawn = [draw(year.seed_of(1, part), span) for part in range(112)]
    assert sum(map(len, drawn)) > 10_000
    asked = bursts(year.seed_of(1, 0), span)
    assert all(span.busy_s <= at_s < span.all_s for at_s, _ in asked)


def test_a_run_in_which_a_promise_is_broken_says_which_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Upstream, "_well", lambda _self, asked: Script(tokens=asked.words(1)[:-1] or ("nothing ",)))
    figures = lived((), 300.0)
    assert figures.broken is not None
    assert figures.broken.promise == "G12", told(figures)
    assert "the answer says" in figures.broken.what
