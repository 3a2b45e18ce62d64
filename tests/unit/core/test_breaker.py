"""When Ollama may be called, in made-up time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.breaker import TRANSITIONS, Breaker, BreakerEvent, BreakerState, is_upstream_fault
from supervisord_ai.core.machine import IllegalMove, advance
from supervisord_ai.core.policies import BreakerPolicy


def state(breaker: Breaker) -> BreakerState:
    return breaker.state


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.fault(at)
    assert state(breaker) is BreakerState.OPEN
    return breaker


def half_open() -> Breaker:
    breaker = opened()
    breaker.cool(15)
    assert state(breaker) is BreakerState.HALF_OPEN
    return breaker


@pytest.mark.parametrize("before", BreakerState)
@pytest.mark.parametrize("event", BreakerEvent)
def test_every_move_is_in_the_table_or_an_error(before: BreakerState, event: BreakerEvent) -> None:
    if (before, event) in TRANSITIONS:
        assert advance("breaker", TRANSITIONS, before, event) is not before
    else:
        with pytest.raises(IllegalMove):
            advance("breaker", TRANSITIONS, before, event)


def test_five_faults_within_a_minute_open_it_and_four_do_not() -> None:
    breaker = Breaker()
    for at in (0, 10, 20, 30):
        breaker.fault(at)
    assert state(breaker) is BreakerState.CLOSED
    breaker.fault(59)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.cools_at == 59 + 15


def test_faults_that_lie_further_apart_than_the_window_never_open_it() -> None:
    breaker = Breaker()
    for number in range(100):
        breaker.fault(number * 15.0)
    assert state(breaker) is BreakerState.CLOSED


def test_good_calls_between_them_do_not_hide_five_faults() -> None:
    breaker = Breaker()
    for at in range(5):
        breaker.fault(at)
        breaker.success()
    assert state(breaker) is BreakerState.OPEN


def test_what_began_before_it_opened_may_end_as_it_likes() -> None:
    breaker = opened()
    breaker.fault(3)
    breaker.success()
    assert state(breaker) is BreakerState.OPEN
    assert breaker.cools_at == 15


def test_it_cools_when_it_is_time_and_not_before() -> None:
    breaker = opened()
    breaker.cool(14.9)
    assert state(breaker) is BreakerState.OPEN
    breaker.cool(15)
    assert state(breaker) is BreakerState.HALF_OPEN
    assert breaker.cools_at == math.inf


def test_a_good_probe_closes_it_with_a_clean_slate() -> None:
    breaker = half_open()
    breaker.success()
    assert state(breaker) is BreakerState.CLOSED
    for _ in range(4):
        breaker.fault(16)
    assert state(breaker) is BreakerState.CLOSED


def test_a_bad_probe_opens_it_for_another_cool_down() -> None:
    breaker = half_open()
    breaker.fault(20)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.cools_at == 35


@given(st.lists(st.tuples(st.sampled_from(["fault", "success", "cool"]), st.floats(0, 30)), max_size=60))
def test_whatever_happens_it_is_never_open_for_longer_than_the_cool_down(deeds: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(BreakerPolicy(failures=2)), 0.0
    for deed, pause_s in deeds:
        now += pause_s
        match deed:
            case "fault":
                breaker.fault(now)
            case "success":
                breaker.success()
            case _:
                breaker.cool(now)
        assert (breaker.cools_at < math.inf) == (state(breaker) is BreakerState.OPEN)
        assert state(breaker) is not BreakerState.OPEN or breaker.cools_at <= now + breaker.policy.cool_down_s


@pytest.mark.parametrize(
    ("status", "message", "counts"),
    [
        (500, "an error was encountered while running the model: unexpected EOF", True),
        (500, 'option "temperature" must be of type float32', False),
        (500, "invalid format: xml", False),
        (503, "server busy, please try again.  maximum pending requests exceeded", True),
        *((status, "", True) for status in (502, 503, 504)),
        *((status, "", False) for status in (500, 501, 505)),
        (400, "an error was encountered while running the model", False),
        (404, "model 'nope' not found", False),
        (429, "", False),
    ],
)
def test_an_answer_counts_only_where_it_says_that_ollama_failed(status: int, message: str, counts: bool) -> None:
    assert is_upstream_fault(status, message) is counts
