"""The ladder: when it goes up and down, what its owner pins, and that quiet brings back level 0."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.degradation import Change, Degradation, Pin, lifts_in_s
from supervisord_ai.core.effects import Effects, Level, effects_at
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.pressure import Component, Pressed, Pressure

POLICY = LevelsPolicy()


def pressure(queue: float | None = 0.0, memory: float | None = 0.0, cpu: float | None = 0.0) -> Pressure:
    return Pressure(Pressed(queue, "a queue"), Pressed(memory, "a memory"), Pressed(cpu, "a cpu"))


# --- the rules, one by one ----------------------------------------------------------------------------------------------


def level_of(ladder: Degradation) -> int:
    return int(ladder.level)


def held_for(ladder: Degradation, seconds: int, now: float, **components: float | None) -> float:
    """The same pressure for so long; returns the time then."""
    for _ in range(seconds):
        now += 1
        ladder.step(pressure(**components), now)
    return now


def test_memory_is_felt_within_seconds_and_the_processors_within_a_minute() -> None:
    def seconds_to_level_1(**components: float) -> int:
        ladder, now = Degradation(POLICY), 0.0
        while level_of(ladder) == 0:
            now = held_for(ladder, 1, now, **components)
        return round(now)

    assert seconds_to_level_1(memory=0.96) <= 5
    assert seconds_to_level_1(queue=0.96) <= 15
    assert 20 < seconds_to_level_1(cpu=0.96) <= 60


def test_the_largest_component_decides_and_is_named_with_its_figures() -> None:
    ladder = Degradation(POLICY)
    held_for(ladder, 60, 0.0, queue=0.5, memory=0.7, cpu=0.65)
    assert level_of(ladder) == Level.MINOR
    assert ladder.cause == "memory"
    assert ladder.reason.startswith("memory pressure 0.6")
    assert ladder.reason.endswith("reached 0.60: a memory")


def test_a_level_is_left_only_below_its_lower_threshold_and_after_its_dwell() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 30, 0.0, queue=0.7)
    now = held_for(ladder, 300, now, queue=0.55)  # under 0.60, over 0.50
    assert level_of(ladder) == Level.MINOR
    now = held_for(ladder, 20, now, queue=0.3)
    assert level_of(ladder) == Level.NORMAL
    quick = Degradation(POLICY)
    now = held_for(quick, 14, 0.0, queue=0.75)
    assert level_of(quick) == Level.MINOR
    now = held_for(quick, 50, now, queue=0.0)
    assert level_of(quick) == Level.MINOR
    held_for(quick, 15, now, queue=0.0)
    assert level_of(quick) == Level.NORMAL


def test_memory_at_its_end_is_never_taken_for_noise() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 30, 0.0, memory=1.0)
    now = held_for(ladder, 40, now, memory=0.0)
    assert level_of(ladder) == Level.MAJOR  # it has just come down
    now = held_for(ladder, 30, now, queue=1.0)
    assert level_of(ladder) == Level.MAJOR  # a queue waits for its minute
    held_for(ladder, 10, now, memory=1.0)
    assert level_of(ladder) == Level.CRITICAL


def test_what_holds_no_time_holds_no_pressure_whatever_the_clock_does() -> None:
    """A hundred samples at one instant, or on a clock that goes back, are no minute."""
    for step_s in (0.0, -1.0):
        ladder = Degradation(POLICY)
        for number in range(100):
            ladder.step(pressure(memory=1.0), 1000.0 + number * step_s)
        assert level_of(ladder) == Level.NORMAL


def test_after_a_step_down_the_dwell_is_over_on_its_second() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 20, 0.0, queue=0.7)
    while level_of(ladder) > Level.NORMAL:
        now = held_for(ladder, 1, now, queue=0.0)
    down_at = now
    assert ladder.reason == "queue pressure 0.00 is below 0.50"
    while level_of(ladder) == Level.NORMAL:
        now = held_for(ladder, 1, now, queue=0.75)
    assert now == down_at + POLICY.dwell_s


def test_a_level_is_news_when_it_was_left_ten_dwells_ago() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 60, 0.0, queue=0.9)
    while level_of(ladder) > Level.MINOR:
        now = held_for(ladder, 1, now, queue=0.65)
    left_at = now
    now = held_for(ladder, 500, now, queue=0.0)
    now = held_for(ladder, 14, now, queue=0.75)
    while level_of(ladder) > Level.NORMAL:
        now = held_for(ladder, 1, now, queue=0.0)
    assert left_at + 10 * POLICY.dwell_s - 40 < now < left_at + 10 * POLICY.dwell_s, "so that the dwell outlasts the news"
    while level_of(ladder) < Level.MAJOR:
        now = held_for(ladder, 1, now, queue=0.9)
    assert now == left_at + 10 * POLICY.dwell_s + 1


def test_a_level_that_was_not_reached_for_long_is_news_right_after_a_step_down() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 20, 0.0, queue=0.7)
    now = held_for(ladder, 60, now, queue=0.0)
    assert level_of(ladder) == Level.NORMAL
    now = held_for(ladder, 14, now, queue=0.75)
    assert level_of(ladder) == Level.NORMAL  # level 1 again: perhaps noise
    held_for(ladder, 30, now, queue=0.9)
    assert level_of(ladder) == Level.MAJOR


def test_a_lost_sensor_counts_as_it_was_for_a_dwell_and_then_not_at_all() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 120, 0.0, memory=0.7)
    now = held_for(ladder, 58, now, memory=None)
    assert level_of(ladder) == Level.MINOR
    now = held_for(ladder, 2, now, memory=None)
    assert Component.MEMORY in ladder.smoothed
    now = held_for(ladder, 3, now, memory=None)
    assert level_of(ladder) == Level.NORMAL
    assert Component.MEMORY not in ladder.smoothed
    held_for(ladder, 10, now, queue=None, memory=None, cpu=None)
    assert level_of(ladder) == Level.NORMAL


def test_with_every_sensor_lost_the_level_comes_back() -> None:
    ladder = Degradation(POLICY)
    now = held_for(ladder, 60, 0.0, queue=1.0, memory=1.0)
    assert level_of(ladder) == Level.CRITICAL
    held_for(ladder, 400, now, queue=None, memory=None, cpu=None)
    assert level_of(ladder) == Level.NORMAL
    assert (ladder.reason, ladder.cause) == ("nothing is measured any more, so pressure is below 0.50", "")


# --- the owner's word ---------------------------------------------------------------------------------------------------


def test_a_pinned_level_holds_whatever_is_decided_and_what_was_decided_holds_after_it() -> None:
    ladder = Degradation(POLICY)
    change = ladder.pin(Pin(Level.MAJOR))
    assert change == Change(Level.NORMAL, Level.MAJOR, "its owner pinned it", "owner")
    held_for(ladder, 60, 0.0, queue=1.0)
    assert (ladder.level, ladder.decided) == (Level.MAJOR, Level.CRITICAL)
    back = ladder.pin(None)
    assert back is not None
    assert (back.after, back.cause) == (Level.CRITICAL, "queue")


def test_a_pin_ends_by_itself() -> None:
    ladder = Degradation(POLICY)
    ladder.step(pressure(), 0.0)
    ladder.pin(Pin(Level.CRITICAL, until=10.0))
    assert ladder.step(pressure(), 9.0).held is None
    ended = ladder.step(pressure(), 10.0).held
    assert ended is not None
    assert (ended.before, ended.after) == (Level.CRITICAL, Level.NORMAL)
    assert ladder.pinned is None


def test_a_pin_to_the_level_that_holds_changes_nothing() -> None:
    assert Degradation(POLICY).pin(Pin(Level.NORMAL)) is None


def test_in_shadow_mode_levels_are_decided_and_none_holds() -> None:
    ladder = Degradation(replace(POLICY, shadow=True))
    decided = [ladder.step(pressure(queue=1.0), float(now)) for now in range(60)]
    assert level_of(ladder) == Level.NORMAL
    assert all(step.held is None for step in decided)
    assert [step.decided.after for step in decided if step.decided is not None] == [1, 2, 3]


# --- properties ---------------------------------------------------------------------------------------------------------

VALUES = st.one_of(st.none(), st.floats(0, 1))
PIECES = st.lists(st.tuples(st.integers(1, 90), VALUES, VALUES, VALUES), min_size=1, max_size=12)
WALKS = st.lists(st.tuples(st.floats(-0.25, 0.25), st.floats(-0.25, 0.25)), min_size=60, max_size=600)


@given(PIECES)
@settings(max_examples=80, deadline=None)
def test_whatever_happened_quiet_undoes_every_effect(pieces: list[tuple[int, float | None, float | None, float | None]]) -> None:
    ladder, now = Degradation(POLICY), 0.0
    for seconds, queue, memory, cpu in pieces:
        now = held_for(ladder, seconds, now, queue=queue, memory=memory, cpu=cpu)
    held_for(ladder, 3 * 60 + 120, now)
    assert level_of(ladder) == Level.NORMAL
    assert effects_at(POLICY, ladder.level) == Effects()


@given(WALKS, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_two_changes_within_a_minute_are_a_climb_or_an_emergency(
    walk: list[tuple[float, float]], queue: float, memory: float
) -> None:
    ladder, changes = Degradation(POLICY), list[tuple[float, Change]]()
    for now, (dq, dm) in enumerate(walk):
        queue, memory = (min(1.0, max(0.0, value)) for value in (queue + dq, memory + dm))
        held = ladder.step(pressure(queue=queue, memory=memory), float(now)).held
        if held is not None:
            changes.append((float(now), held))
    reached = Level.NORMAL
    for (earlier, one), (later, other) in pairwise(changes):
        reached = max(reached, one.before, one.after)
        if later - earlier >= POLICY.dwell_s:
            continue
        assert other.after > other.before, "a step down comes a minute after any other"
        if one.after < one.before:
            is_news = other.after > reached
            is_emergency = other.after is Level.CRITICAL and other.cause == "memory"
            assert is_news or is_emergency


@given(st.lists(st.floats(0, 1), min_size=30, max_size=300))
@settings(max_examples=60, deadline=None)
def test_a_change_says_from_where_to_where_and_why(values: list[float]) -> None:
    ladder, level = Degradation(POLICY), Level.NORMAL
    for now, value in enumerate(values):
        held = ladder.step(pressure(memory=value), now * 2.0).held
        if held is not None:
            assert held.before is level
            assert held.after is not held.before
            assert held.reason
            level = held.after
        assert ladder.level is level


# --- how long it will be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_for_s", "wait_share", "seconds"),
    [
        (0.0, None, 60.0),  # the dwell
        (50.0, None, 10.0),
        (100.0, None, 0.0),
        (50.0, 1.0, 44.0),  # (1.0 - 0.85) x 240 s, and the smoothing
        (0.0, 1.0, 60.0),
        (50.0, 0.86, 10.0),  # 2.4 s to fall: the smoothed figure is not yet behind by all of its delay, and the dwell is longer
        (60.0, 0.86, 7.0),
        (100.0, 0.852, 3.0),  # half a second to fall, seen by the smoothed figure after three
        (100.0, 0.85, 0.0),
        (60.0, 2.0, 146.0),  # half of those will have given up: (2.0 - 0.85) x 240 s / 2, and the smoothing
        (100.0, 0.5, 0.0),
    ],
)
def test_a_level_lifts_after_its_dwell_and_when_the_backlog_is_short_enough(
    held_for_s: float, wait_share: float | None, seconds: float
) -> None:
    found = lifts_in_s(POLICY, Level.CRITICAL, held_for_s=held_for_s, wait_share=wait_share, within_s=240.0)
    assert found == pytest.approx(seconds, abs=0.2)
