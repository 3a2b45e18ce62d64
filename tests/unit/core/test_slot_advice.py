"""How many slots an engine is worth."""

from __future__ import annotations

import pytest

from supervisord_ai.core.slot_advice import Speed, advise


def speeds(*together: float) -> list[Speed]:
    return [Speed(n, rate, rate / n, 0.1) for n, rate in zip((1, 2, 4, 8), together, strict=False)]


@pytest.mark.parametrize(
    ("together", "slots", "why"),
    [
        ((100, 180), 2, "2 at once answer 1.80 times what 1 does"),
        ((100, 105), 1, "2 at once answer 1.05 times what 1 does: not worth a slot"),
        ((100, 60), 1, "2 at once answer 0.60 times what 1 does: not worth a slot"),
        ((100, 180, 185), 2, "2 at once answer 1.80 times what 1 does; 4 bring nothing more"),
        ((100, 180, 300, 310), 4, "4 at once answer 3.00 times what 1 does; 8 bring nothing more"),
        ((100, 104, 220), 4, "4 at once answer 2.20 times what 1 does"),
        ((100,), 1, "nothing but 1 at once was measured"),
    ],
)
def test_a_slot_more_has_to_bring_a_tenth_more(together: tuple[float, ...], slots: int, why: str) -> None:
    found = advise(speeds(*together))
    assert (found.slots, found.why) == (slots, why)


def test_a_tenth_is_the_border() -> None:
    assert advise(speeds(100, 110.1)).slots == 2
    assert advise(speeds(10, 11)).slots == 2
    assert advise(speeds(100, 109.9)).slots == 1
