"""How long an upstream call is waited for, and how often it is made."""

from __future__ import annotations

import pytest

from supervisord_ai.core.patience import Patience, may_ask_again, next_probe_s


def test_a_request_that_brings_nothing_back_is_handed_over_twice_and_no_third_time() -> None:
    assert [may_ask_again(tries, Patience()) for tries in (0, 1, 2, 3)] == [True, True, False, False]


@pytest.mark.parametrize(("waited_s", "next_s"), [(0.0, 0.5), (0.2, 0.5), (0.5, 1.0), (1.0, 2.0), (2.5, 5.0), (5.0, 5.0)])
def test_a_lost_backend_is_asked_half_as_often_each_time_within_bounds(waited_s: float, next_s: float) -> None:
    assert next_probe_s(waited_s, Patience()) == next_s
