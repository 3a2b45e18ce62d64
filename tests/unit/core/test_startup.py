"""Who may start when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.startup import StartGate


def test_131_that_fall_together_come_back_ten_every_two_seconds() -> None:
    gate = StartGate()
    starts = [gate.reserve(100.0) for _ in range(131)]
    assert starts[:10] == [100.0] * 10
    assert starts[10:20] == [102.0] * 10
    assert starts[-1] == 100.0 + 2.0 * 13


def test_a_gate_that_nobody_crowds_lets_everyone_through_at_once() -> None:
    gate = StartGate()
    assert [gate.reserve(float(t)) for t in range(30)] == [float(t) for t in range(30)]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=80), st.integers(1, 12))
def test_no_window_ever_holds_more_starts_than_the_limit_and_nobody_overtakes(pauses: list[float], limit: int) -> None:
    gate = StartGate(limit=limit)
    now, starts = 0.0, []
    for pause in pauses:
        now += pause
        starts.append(gate.reserve(now))
        assert starts[-1] >= now
    assert starts == sorted(starts)
    assert all(later - earlier >= gate.window_s - 1e-9 for earlier, later in zip(starts, starts[limit:], strict=False))
