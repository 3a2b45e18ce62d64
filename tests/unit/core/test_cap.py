"""When an agent without a group is over its cap."""

from __future__ import annotations

from supervisord_ai.core.cap import CapDeed, CapWatch

N, END, KILL = CapDeed.NOTHING, CapDeed.END, CapDeed.KILL


def test_three_samples_in_a_row_over_the_cap_end_it() -> None:
    watch = CapWatch(100)
    assert [watch.judge(used) for used in (101, 110, 100, 101, 119, 105, 106)] == [N, N, N, N, N, END, END]


def test_far_over_the_cap_is_killed_at_once() -> None:
    assert CapWatch(100).judge(120) is N
    assert CapWatch(100).judge(121) is KILL
