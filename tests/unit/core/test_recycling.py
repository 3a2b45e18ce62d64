"""Who has run long enough."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.recycling import Aged, due


def test_an_age_is_spread_by_a_tenth_and_off_by_default() -> None:
    early, late = Aged("early", 91.0, 100.0, 0.0), Aged("late", 91.0, 100.0, 0.999)
    assert due([late, early, Aged("never", 1e9, 0.0, 0.0)], in_hand=0, group_size=9, is_held=False) == ("early",)
    assert due([Aged("late", 110.0, 100.0, 0.999)], in_hand=0, group_size=9, is_held=False) == ("late",)


def test_on_the_second_of_its_age_it_is_due_and_an_age_may_be_one_second() -> None:
    assert due([Aged("a", 90.0, 100.0, 0.0)], in_hand=0, group_size=9, is_held=False) == ("a",)
    assert due([Aged("a", 0.9, 1.0, 0.0)], in_hand=0, group_size=9, is_held=False) == ("a",)


def test_nobody_is_taken_while_it_is_held_up() -> None:
    assert due([Aged("a", 1e9, 1.0, 0.0)], in_hand=0, group_size=9, is_held=True) == ()


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 0.999)), max_size=30), st.integers(0, 12), st.integers(1, 10))
def test_never_more_than_a_group_and_the_oldest_first(ages: list[tuple[float, float]], in_hand: int, group_size: int) -> None:
    agents = {f"a{n}": Aged(f"a{n}", age, 100.0, draw) for n, (age, draw) in enumerate(ages)}
    taken = due(agents.values(), in_hand=in_hand, group_size=group_size, is_held=False)
    assert len(taken) + in_hand <= max(group_size, in_hand)
    assert all(agents[name].over_s >= 0 for name in taken)
    left = [one.over_s for name, one in agents.items() if name not in taken]
    if taken and left:
        assert min(agents[name].over_s for name in taken) >= max(left)
