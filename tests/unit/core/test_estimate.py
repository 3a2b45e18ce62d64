"""When a waiting request will start: the forecast against the scheduler itself, in made-up time."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.estimate import (
    FIRST_GUESS_S,
    STEPS_MAX,
    Forecast,
    Lanes,
    Line,
    ServiceTimes,
    newcomers_start,
    retry_after,
)
from supervisord_ai.core.estimate import forecast as forecast_of
from supervisord_ai.core.scheduler import Scheduler, SchedulerPolicy, Start, Ticket

NUMBERS = itertools.count()
FAR = 1e9
ONE_SHARE = SchedulerPolicy(band_s=1e-9, floor=0.0)  # what a forecast leaves out is left out here too


def ticket(agent: str, at: float = 0.0, priority: int = 5, model: str = "m", not_before: float = 0.0) -> Ticket:
    number = next(NUMBERS)
    return Ticket(f"{agent}#{number}", agent, "opus", priority, at, FAR, model, not_before=not_before)


def ready(slots: int, service_s: float, policy: SchedulerPolicy = ONE_SHARE, **model_slots: int) -> Scheduler:
    scheduler = Scheduler({"main": slots}, policy)
    scheduler.backend_ready("main", resident=frozenset(), model_slots=model_slots)
    scheduler.service.note("m", service_s)
    return scheduler


def play(scheduler: Scheduler, service_s: float, running: dict[str, float] | None = None) -> dict[str, float]:
    """When each ticket is started, when every call takes `service_s`; `running` end at these times."""
    started: dict[str, float] = {}
    running = dict(running or {})
    now = 0.0
    while scheduler.queued:
        for effect in scheduler.decide(now):
            if isinstance(effect, Start):
                started[effect.ticket.id] = now
                running[effect.ticket.id] = now + service_s
        now = min(scheduler.next_decision_at(now), *running.values(), math.inf)
        for ended in [which for which, ends_at in running.items() if ends_at <= now]:
            del running[ended]
            scheduler.settle(ended, now)
    return started


def test_nothing_known_is_a_guess_and_says_so() -> None:
    service = ServiceTimes()
    was_known = service.is_known
    assert service.of("m") == service.longest_s == FIRST_GUESS_S
    service.note("m", 2.0)
    assert (was_known, service.is_known) == (False, True)
    assert service.of("another") == 2.0


def test_embeddings_of_a_model_have_a_history_of_their_own() -> None:
    service = ServiceTimes()
    service.note("m", 8.0)
    service.note("m", 0.1, is_embedding=True)
    assert (service.of("m"), service.of("m", is_embedding=True)) == (8.0, 0.1)
    assert service.longest_s == 8.0


def test_a_mean_follows_the_last_calls_by_a_fifth_each() -> None:
    service = ServiceTimes()
    for took_s in (10.0, 20.0):
        service.note("m", took_s)
    assert service.of("m") == service.of("another") == 12.0
    service.note("m", 2.0)
    assert service.of("m") == service.of("another") == 10.0


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, 1), (0.2, 1), (17.1, 18), (1e9, 60)])
def test_retry_after_is_whole_seconds_that_clients_heed(wait_s: float, told: float) -> None:
    assert retry_after(wait_s) == told


# No two turns begin at one instant: such a tie is decided by the shares, which a forecast does not know.
SERVICE_S = 4.1371
APART_S = 1.31
LATER_S = 31.7177

Asked = list[tuple[str, int, int, bool]]
"""Agent, priority, age, and whether its rate holds it back until later."""


def foretold_and_happened(asked: Asked, slots: int) -> list[tuple[Forecast, Forecast]]:
    """For each request, what was said of its start and what came true."""
    scheduler = ready(slots, SERVICE_S)
    running: dict[str, float] = {}
    for slot in range(slots):
        busy = ticket(f"busy-{slot}", at=-10.0, not_before=-10.0)
        scheduler.push(busy)
        scheduler.decide((slot - slots) * APART_S)
        running[busy.id] = (slot - slots) * APART_S + SERVICE_S
    tickets = [
        ticket(agent, -at - n / 1000, priority, not_before=LATER_S + n / 70 if is_held else 0.0)
        for n, (agent, priority, at, is_held) in enumerate(asked)
    ]
    for one in tickets:
        scheduler.push(one)
    told = [scheduler.forecast(one, 0.0) for one in tickets]
    happened = play(scheduler, SERVICE_S, running)
    pairs = []
    for one, forecast in zip(tickets, told, strict=True):
        assert forecast is not None
        starts_at = happened[one.id]
        pairs.append((forecast, Forecast(starts_at, ahead=sum(at < starts_at for at in happened.values()))))
    return pairs


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcde"), st.sampled_from([2, 3, 5, 8]), st.integers(0, 40), st.sampled_from([False] * 3 + [True])
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1, 2, 3]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_foretold_is_what_happens_when_nothing_else_comes(asked: Asked, slots: int) -> None:
    for foretold, happened in foretold_and_happened(asked, slots):
        assert foretold.starts_at == pytest.approx(happened.starts_at, abs=0.001)
        assert foretold.ahead == happened.ahead


def test_where_two_turns_tie_the_shares_decide_and_a_forecast_is_wrong_by_that_one_turn() -> None:
    scheduler = ready(1, 4.0)
    tickets = [
        ticket("b", 0.0, 2, not_before=30.0),
        ticket("a", -0.001, 2),
        ticket("a", -0.002, 5, not_before=30.0),  # its turn began at 0: key 75
        ticket("b", -0.003, 3, not_before=30.0),  # its turn began at 30: key 75
    ]
    for one in tickets:
        scheduler.push(one)
    told = [scheduler.forecast(one, 0.0) for one in tickets]
    happened = play(scheduler, 4.0)
    assert [forecast.starts_at for forecast in told if forecast is not None] == [30.0, 0.0, 38.0, 34.0]
    assert [happened[one.id] for one in tickets] == [30.0, 0.0, 34.0, 38.0]


def test_a_model_with_one_slot_of_two_is_waited_for_longer() -> None:
    told = [ready(2, 4.0), ready(2, 4.0, m=1)]
    waits = []
    for scheduler in told:
        tickets = [ticket(f"agent-{n}") for n in range(6)]
        for one in tickets:
            scheduler.push(one)
        forecast = scheduler.forecast(tickets[-1], 0.0)
        assert forecast is not None
        waits.append(forecast.starts_at)
    assert waits == [8.0, 20.0]


def test_who_is_only_asking_is_put_behind_those_who_wait_and_those_who_enter() -> None:
    scheduler = ready(1, 4.0)
    scheduler.push(ticket("a"))
    entering = [ticket("b"), ticket("c")]
    forecast = scheduler.forecast(ticket("d"), 0.0, entering=entering)
    assert forecast is not None
    assert (forecast.starts_at, forecast.ahead) == (12.0, 3)
    assert scheduler.queued == 1


def test_a_running_call_is_expected_to_take_its_usual_time_and_never_less_than_none() -> None:
    scheduler = ready(1, 4.0)
    scheduler.push(ticket("a"))
    scheduler.decide(0.0)
    for now, starts_at in ((1.0, 4.0), (9.0, 9.0)):
        forecast = scheduler.forecast(ticket("b", now), now)
        assert forecast is not None
        assert forecast.starts_at == starts_at


def test_while_no_backend_answers_nothing_is_foretold() -> None:
    scheduler = ready(1, 4.0)
    scheduler.backend_lost("main")
    assert scheduler.forecast(ticket("a"), 0.0) is None


def test_beyond_what_matters_the_rest_is_reckoned_by_the_pace() -> None:
    scheduler = ready(2, 4.0)
    tickets = [ticket(f"agent-{n % 131}") for n in range(20_000)]
    for one in tickets:
        scheduler.push(one)
    began = time.process_time()
    forecast = scheduler.forecast(tickets[-1], 0.0)
    assert forecast is not None
    assert forecast.starts_at == pytest.approx(40_000, rel=0.02)
    assert forecast.ahead == 19_999
    assert time.process_time() - began < 0.5


class Counting(ServiceTimes):
    """Counts how many starts were played: of each one it is asked how long the call will take."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def of(self, model: str | None, *, is_embedding: bool = False) -> float:
        self.asked += 1
        return super().of(model, is_embedding=is_embedding)


@pytest.mark.parametrize(
    ("until", "starts_at"),
    [
        (math.inf, 1131.0),
        (1030.0, 1162.5),  # the slow one's start is still looked at, and the next is not: four in 130 s, and one to go
        (1025.0, 1050.0),  # three in 30 s, and two to go
        (1005.0, 1050.0),  # one in 10 s, and four to go
    ],
)
def test_what_starts_later_than_matters_is_reckoned_by_the_pace_of_what_starts_before(until: float, starts_at: float) -> None:
    service = ServiceTimes()
    for model, is_embedding, took_s in (("m", False, 10.0), ("m", True, 1.0), ("slow", False, 100.0)):
        service.note(model, took_s, is_embedding=is_embedding)
    waits = [ticket(f"opus-{n}", model="slow" if n == 2 else "m") for n in range(5)]
    waits[3] = replace(waits[3], is_embedding=True)
    lines = [Line(-math.inf, [(75.0, number, one)]) for number, one in enumerate(waits)]
    found = forecast_of(waits[-1], lines, Lanes((1010.0,)), service, now=1000.0, until=until)
    assert found == Forecast(starts_at, 4)


def test_of_a_very_long_line_two_thousand_starts_are_played_and_no_more() -> None:
    waits = [ticket(f"opus-{number}") for number in range(STEPS_MAX + 500)]
    lines = [Line(-math.inf, [(75.0, number, one)]) for number, one in enumerate(waits)]
    service = Counting()
    forecast_of(waits[-1], lines, Lanes((0.0,)), service, now=0.0)
    assert service.asked == STEPS_MAX
    newcomers_start({5}, lines, Lanes((0.0,)), service, now=100.0, level_s=15.0)
    assert service.asked == 2 * STEPS_MAX


# --- how long one would wait who came now -------------------------------------------------------------------------------


def newcomer(scheduler: Scheduler, priority: int = 5) -> float:
    starts = scheduler.newcomers_start({priority}, 0.0)
    assert starts is not None
    return starts[priority]


def test_where_nobody_waits_a_newcomer_starts_when_a_slot_is_free() -> None:
    scheduler = ready(2, 5.0)
    assert newcomer(scheduler) == 0.0
    for agent in ("a", "b"):
        scheduler.push(ticket(agent))
    scheduler.decide(0.0)
    assert newcomer(scheduler) == 5.0


def test_a_newcomer_stands_behind_everybody_of_its_priority_and_better_ones() -> None:
    scheduler = ready(2, 5.0)
    for number in range(20):
        scheduler.push(ticket(f"a{number}", at=-1.0, priority=5))
    assert [newcomer(scheduler, priority) for priority in (3, 5, 7)] == [0.0, 50.0, 50.0]


def test_a_flooder_costs_a_newcomer_one_turn() -> None:
    scheduler = ready(1, 5.0)
    for _ in range(64):
        scheduler.push(ticket("flooder", at=-1.0))
    assert newcomer(scheduler) <= 10.0


def test_a_long_line_is_reckoned_by_its_pace() -> None:
    scheduler = ready(2, 5.0)
    for number in range(5000):
        scheduler.push(ticket(f"a{number}", at=-1.0))
    assert newcomer(scheduler) == pytest.approx(12_500, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10), st.integers(-60, 0)), max_size=25),
    st.integers(1, 3),
    st.integers(1, 10),
)
@settings(max_examples=60, deadline=None)
def test_a_newcomer_starts_when_it_would_were_it_pushed(asks: list[tuple[int, int, int]], slots: int, priority: int) -> None:
    scheduler = ready(slots, 5.003)  # so that no two turns have one key
    for number, (agent, level, at) in enumerate(asks):
        scheduler.push(ticket(f"a{agent}", at=at - 1 + number * 1e-3, priority=level))
    told = newcomer(scheduler, priority)
    mine = ticket("newcomer", at=0.0, priority=priority)
    forecast = scheduler.forecast(mine, 0.0)
    assert forecast is not None
    assert told == pytest.approx(forecast.starts_at)


def test_nobody_starts_where_nothing_answers_or_its_owner_paused_it() -> None:
    scheduler = Scheduler({"main": 2}, ONE_SHARE)
    assert scheduler.newcomers_start({5}, 0.0) is None
    scheduler.backend_ready("main", resident=frozenset())
    scheduler.is_paused = True
    assert scheduler.newcomers_start({5}, 0.0) is None


def test_one_that_stands_in_no_line_starts_when_those_who_do_have_started() -> None:
    waits = [ticket("opus-1", at=float(number)) for number in range(2)]
    lines = [Line(0.0, [(float(number), number, one) for number, one in enumerate(waits)])]
    service = ServiceTimes()
    service.note("m", 10.0)
    found = forecast_of(ticket("opus-2"), lines, Lanes((0.0,)), service, now=0.0)
    assert found == Forecast(10.0, 2)
