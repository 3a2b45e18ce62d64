"""Whose connection ends when there are too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.crowd import Crowd, connections_most


def crowd(**held: int) -> Crowd[str]:
    """So many idle connections of each, that came one holder after the other."""
    made: Crowd[str] = Crowd(most=sum(held.values()))
    for holder, count in held.items():
        for number in range(count):
            made.note(f"{holder}{number}", holder, is_busy=False)
    return made


def test_who_has_most_gives_the_one_that_is_idle_longest() -> None:
    made = crowd(alice=2, mallory=5, bob=1)
    assert made.gives() == ("mallory0", "mallory", 5)
    made.note("mallory0", "mallory", is_busy=False)  # it has just asked something
    assert made.gives() == ("mallory1", "mallory", 5)


def test_a_busy_one_is_kept_while_an_idle_one_is_there() -> None:
    made = crowd(mallory=3)
    made.note("mallory0", "mallory", is_busy=True)
    made.note("mallory1", "mallory", is_busy=True)
    assert made.gives() == ("mallory2", "mallory", 3)
    made.note("mallory2", "mallory", is_busy=True)
    assert made.gives() == ("mallory0", "mallory", 3)  # all are: the one that has been at it longest


def test_one_that_is_at_work_for_long_is_kept_where_another_has_just_become_idle() -> None:
    made = crowd(mallory=2)
    made.note("mallory0", "mallory", is_busy=True)
    made.note("mallory1", "mallory", is_busy=False)
    assert made.gives() == ("mallory1", "mallory", 2)


def test_those_of_nobody_yet_are_one_holders_until_they_say_whose_they_are() -> None:
    made: Crowd[str] = Crowd(most=3)
    for name in ("a", "b", "c"):
        made.note(name, "", is_busy=False)
    assert (made.gives(), made.is_full) == (("a", "", 3), True)
    made.note("a", "alice", is_busy=False)
    made.note("b", "alice", is_busy=False)
    assert made.gives() == ("a", "alice", 2)


def test_what_has_ended_is_nobodys() -> None:
    made = crowd(alice=1)
    assert made.is_full
    made.leave("alice0")
    made.leave("alice0")
    assert (made.gives(), len(made), made.is_full) == (None, 0, False)
    assert repr(made) == "<Crowd 0 of 1, 0 holders>"


def test_there_is_no_bound_but_one_that_was_given() -> None:
    made: Crowd[int] = Crowd()
    for number in range(1000):
        made.note(number, "a", is_busy=False)
    assert not made.is_full


@pytest.mark.parametrize(("open_files", "most"), [(1024, 768), (16_384, 12_288), (1_048_576, 12_288)])
def test_a_quarter_of_the_open_files_is_for_everything_else(open_files: int, most: int) -> None:
    assert connections_most(open_files) == most


deeds = st.tuples(st.integers(0, 12), st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["note", "busy", "leave"]))


@given(st.lists(deeds, max_size=60))
def test_in_no_history_does_one_with_fewer_give(history: list[tuple[int, str, str]]) -> None:
    made: Crowd[int] = Crowd(most=5)
    whose: dict[int, str] = {}
    for one, holder, what in history:
        if what == "leave":
            made.leave(one)
            whose.pop(one, None)
        else:
            made.note(one, holder, is_busy=what == "busy")
            whose[one] = holder
    counts = {holder: [*whose.values()].count(holder) for holder in whose.values()}
    given = made.gives()
    assert (given is None) == (not whose)
    if given is not None:
        assert (whose[given[0]], given[2], max(counts.values())) == (given[1], counts[given[1]], given[2])
    assert (len(made), made.is_full) == (len(whose), len(whose) >= 5)
