"""Whether an agent that promised heartbeats is hung."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.liveness import Liveness, Pause


def test_who_promised_nothing_is_never_hung() -> None:
    one = Liveness()
    one.beat(0.0)
    assert (one.due, one.is_hung(1e9)) == (math.inf, False)


def test_a_period_without_a_heartbeat_is_a_hang() -> None:
    one = Liveness()
    one.promised(30.0, 100.0)
    assert not one.is_hung(129.9)
    one.beat(129.9)
    assert one.due == pytest.approx(159.9)
    assert one.is_hung(one.due)
    assert one.why(160.9) == "no heartbeat for 31.0 s, it promised one every 30 s"


def test_a_promise_can_be_changed_and_taken_back() -> None:
    one = Liveness()
    one.promised(30.0, 0.0)
    one.promised(0.001, 10.0)
    assert one.due == 11.0  # nobody is measured finer than a second
    one.promised(0.0, 10.0)
    assert one.due == math.inf


def test_while_it_waits_for_us_it_is_not_watched_and_then_it_has_a_whole_period() -> None:
    one = Liveness()
    one.promised(10.0, 0.0)
    one.pause(Pause.CALLS)
    one.pause(Pause.THROTTLED)
    assert not one.is_hung(1000.0)
    one.resume(Pause.CALLS, 1000.0)
    assert not one.is_hung(2000.0)
    one.resume(Pause.THROTTLED, 2000.0)
    assert one.due == 2010.0
    one.resume(Pause.CALLS, 2005.0)  # of a pause that was none
    assert one.due == 2010.0


def test_one_that_gives_itself_up_is_hung_at_once_whatever_it_waits_for() -> None:
    one = Liveness()
    one.promised(30.0, 0.0)
    one.pause(Pause.CALLS)
    one.gave_up()
    assert one.is_hung(0.0)
    assert one.why(0.0) == "it said so itself (WATCHDOG=trigger)"


WORDS = st.lists(st.tuples(st.sampled_from(["promise", "beat", *Pause]), st.booleans(), st.floats(0, 20)), max_size=12)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(WORDS)
def test_in_no_history_is_one_hung_that_was_heard_or_excused_within_its_period(words: list[tuple[str, bool, float]]) -> None:
    one, now, heard = Liveness(), 0.0, 0.0
    for word, is_begun, pause_s in words:
        now += pause_s
        if one.pauses:
            heard = now
        assert one.is_hung(now) == (one.period_s is not None and not one.pauses and now >= heard + one.period_s)
        match word:
            case "promise":
                one.promised(5.0, now)
                heard = now
            case "beat":
                one.beat(now)
                heard = now
            case _ if is_begun:
                one.pause(Pause(word))
            case _:
                one.resume(Pause(word), now)
