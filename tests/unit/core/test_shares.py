"""Who has had how much of the slots, and which class has had too little of them."""

from __future__ import annotations

import math

import pytest

from supervisord_ai.core.shares import NOTHING_S, Shares

WINDOW_S = 100.0


def used(**seconds: float) -> Shares:
    """Classes, each with what it has used at 0."""
    shares = Shares(WINDOW_S)
    for agent_class, its_s in seconds.items():
        shares.charge(f"{agent_class}-1", agent_class, its_s, 0.0)
    return shares


def test_what_was_used_fades_to_a_third_in_each_window_and_adds_to_what_is_used_next() -> None:
    shares = used(opus=10.0)
    assert shares.used_s("opus-1", 0.0) == 10.0
    assert shares.used_s("opus-1", 0.5) == pytest.approx(10.0 * math.exp(-0.005))
    shares.charge("opus-1", "opus", 5.0, WINDOW_S)
    assert shares.used_s("opus-1", WINDOW_S) == pytest.approx(10.0 / math.e + 5.0)


def test_a_clock_that_went_back_makes_nothing_grow() -> None:
    shares = Shares(WINDOW_S)
    shares.charge("opus-1", "opus", 10.0, 50.0)
    assert shares.used_s("opus-1", 0.0) == 10.0


def test_below_its_floor_is_who_has_had_less_than_that_part_of_all_and_not_who_stands_on_it() -> None:
    assert used(opus=90.0, haiku=10.0).below(0.1, ["opus", "haiku"], [], 0.0) is None
    assert used(opus=91.0, haiku=9.0).below(0.1, ["opus", "haiku"], [], 0.0) == "haiku"


def test_of_two_below_their_floor_it_is_the_one_that_has_had_least() -> None:
    assert used(opus=90.0, sonnet=6.0, haiku=4.0).below(0.1, ["sonnet", "haiku"], [], 0.0) == "haiku"


def test_who_has_never_had_anything_is_below_every_floor() -> None:
    assert used(opus=1.0).below(0.1, ["opus", "haiku"], [], 0.0) == "haiku"


def test_who_does_not_wait_is_not_helped_however_little_it_has_had() -> None:
    assert used(opus=90.0, haiku=1.0).below(0.1, ["opus"], [], 0.0) is None
    assert used(opus=90.0, haiku=1.0).below(0.1, [], [], 0.0) is None


def test_where_nobody_has_had_anything_nobody_has_had_too_little() -> None:
    assert used().below(0.1, ["opus", "haiku"], [], 0.0) is None
    assert used(opus=0.2).below(0.1, ["opus", "haiku"], [], 0.0) == "haiku"  # little, and it counts


def test_a_running_call_counts_before_it_is_charged() -> None:
    assert used(opus=80.0, haiku=5.0).below(0.1, ["opus", "haiku"], [("haiku", 5.0)], 0.0) is None
    assert used(opus=80.0).below(0.1, ["opus", "haiku"], [("haiku", 8.7)], 0.0) == "haiku"
    assert used(opus=80.0).below(0.1, ["opus", "haiku"], [("haiku", 8.9)], 0.0) is None


def test_floors_that_do_not_fit_into_one_give_nobody_more_than_an_equal_part() -> None:
    assert used(opus=49.0, haiku=51.0).below(0.8, ["opus", "haiku"], [], 0.0) == "opus"
    assert used(opus=50.0, haiku=50.0).below(0.8, ["opus", "haiku"], [], 0.0) is None


def test_who_is_forgotten_is_as_good_as_new_and_its_class_keeps_what_it_had() -> None:
    shares = used(guest=10.0, haiku=0.5)
    shares.forget(["guest-1", "nobody"])
    assert shares.has_used_nothing("guest-1", 0.0)
    assert shares.below(0.1, ["guest", "haiku"], [], 0.0) == "haiku"


def test_a_millisecond_of_a_slot_is_something_and_less_is_as_good_as_none() -> None:
    assert not used(opus=NOTHING_S).has_used_nothing("opus-1", 0.0)
    assert used(opus=NOTHING_S * 0.99).has_used_nothing("opus-1", 0.0)
