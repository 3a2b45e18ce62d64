"""Which embeds become one call, and how what they share is taken apart again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.batch import BatchPolicy, apportion, merge, plan, weight_of
from supervisord_ai.core.waiting import Mergeable, Ticket

POLICY = BatchPolicy(requests_max=3, window_s=0.1, items_max=4, chars_max=100)


def ticket(name: str, *, at: float = 0.0, items: int = 1, chars: int = 10, not_before: float = 0.0) -> Ticket:
    merges = Mergeable(b"k", items, chars)
    return Ticket(name, name, "opus", 3, arrived_at=at, start_by=1e9, merges=merges, not_before=not_before)


@pytest.mark.parametrize(
    ("waiting", "chosen"),
    [
        ([], []),
        ([ticket("b"), ticket("c"), ticket("d")], ["b", "c"]),  # three requests at most
        ([ticket("b", at=0.05), ticket("c", at=0.02)], ["c", "b"]),  # first come first
        ([ticket("b", at=0.2), ticket("c", at=0.1)], ["c"]),  # within the window of the first
        ([ticket("b", at=-0.2)], []),
        ([ticket("b", items=4), ticket("c", items=3)], ["c"]),  # four texts at most
        ([ticket("b", chars=95), ticket("c", chars=90)], ["c"]),
        ([ticket("b", not_before=5.0), ticket("c")], ["c"]),  # its rate lets it start later
        ([ticket("b", not_before=1.0)], ["b"]),  # or just now
        ([ticket("b", items=2), ticket("c", items=2), ticket("d")], ["b", "d"]),  # four with those who have joined
        ([ticket("b", chars=50), ticket("c", chars=50), ticket("d", chars=40)], ["b", "d"]),
    ],
)
def test_who_joins_a_batch(waiting: list[Ticket], chosen: list[str]) -> None:
    assert [one.id for one in merge(ticket("a"), waiting, POLICY, now=1.0)] == chosen


def test_the_window_is_around_the_first_whenever_that_came() -> None:
    waiting = [ticket("b", at=49.95), ticket("c", at=50.05), ticket("d", at=49.8), ticket("e", at=-50.0)]
    assert [one.id for one in merge(ticket("a", at=50.0), waiting, POLICY, now=51.0)] == ["b", "c"]


def test_who_cannot_be_merged_starts_alone() -> None:
    alone = Ticket("a", "a", "opus", 3, arrived_at=0.0, start_by=1e9)
    assert merge(alone, [ticket("b")], POLICY, now=1.0) == []
    assert weight_of(alone) == 1.0


def test_a_text_weighs_its_characters_and_an_empty_one_as_much_as_one() -> None:
    assert [weight_of(ticket("a", chars=chars)) for chars in (0, 1, 2, 40)] == [1.0, 1.0, 2.0, 40.0]


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5), min_size=1, max_size=5))
def test_a_list_holds_each_text_once_and_gives_everybody_their_own_back(inputs: list[list[str]]) -> None:
    planned = plan(inputs)
    assert len(set(planned.texts)) == len(planned.texts)
    assert [[planned.texts[i] for i in places] for places in planned.places] == inputs


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_parts_add_up_and_none_is_further_than_one_from_its_share(total: int, weights: list[float]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    if sum(weights) > 0:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - total * weight / sum(weights)) < 1.0 + 1e-6


def test_what_is_left_over_goes_to_those_who_lost_most_by_rounding_and_then_to_the_first() -> None:
    assert apportion(10, [2.4, 3.7, 3.9]) == [2, 4, 4]
    assert apportion(2, [1.0, 1.0, 1.0]) == [1, 1, 0]
