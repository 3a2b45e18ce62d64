"""When an agent over a cap that does not bind is told of."""

from __future__ import annotations

from supervisord_ai.core.observed import Excess
from supervisord_ai.core.roster import MB

CAP = 100 * MB


def test_who_is_below_or_at_the_cap_is_not_told_of() -> None:
    excess = Excess()
    assert [excess.judge(size, CAP) for size in (0, CAP - 1, CAP)] == [False, False, False]
    assert excess.highest_bytes == 0


def test_the_first_time_over_is_told_and_then_each_step_higher() -> None:
    excess = Excess()
    told = [size for size in range(99, 125) if excess.judge(size * MB, CAP)]
    assert told == [101, 107, 113, 119]  # each at least 5 % above the last
    assert excess.highest_bytes == 124 * MB


def test_going_down_and_up_again_is_the_same_story() -> None:
    excess = Excess()
    assert [excess.judge(size * MB, CAP) for size in (120, 90, 120, 121)] == [True, False, False, False]
    assert excess.highest_bytes == 121 * MB


def test_a_step_is_five_percent_and_on_the_step_it_is_told() -> None:
    excess = Excess()
    assert [excess.judge(size, 50) for size in (100, 104, 105, 106)] == [True, False, True, False]
