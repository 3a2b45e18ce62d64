"""A rate that changes while its bucket is in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.rate_limit import Rate


def test_what_was_taken_stays_taken() -> None:
    rate = Rate(2.0)
    for _ in range(2):
        rate.take(100.0)
    assert rate.next_at(100.0) == 130.0
    faster = rate.changed(4.0, 100.0)
    assert [faster.take(100.0) for _ in range(4)] == [100.0, 100.0, 115.0, 130.0]


@given(st.floats(2, 600), st.floats(2, 600), st.integers(0, 50), st.integers(1, 40))
def test_changing_it_there_and_back_gives_nothing_away(first: float, second: float, taken: int, changes: int) -> None:
    rate = Rate(first)
    for _ in range(taken):
        rate.take(0.0)
    before = rate.next_at(0.0)
    for _ in range(changes):
        rate = rate.changed(second, 0.0).changed(first, 0.0)
    assert abs(rate.next_at(0.0) - before) <= 1e-6 * max(1.0, before)
