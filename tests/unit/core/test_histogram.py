"""What is told of durations that were counted in buckets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from supervisord_ai.core.histogram import SECONDS, Histogram


def of(*values: float) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    return histogram


def test_a_value_at_a_bound_is_not_above_it() -> None:
    rows = dict(of(0.5, 0.500001).view().cumulative())
    assert rows["0.35"] == 0
    assert rows["0.5"] == 1
    assert rows["0.75"] == 2


def test_what_is_above_every_bound_is_counted_in_the_last_row() -> None:
    view = of(1e9).view()
    assert view.cumulative()[-1] == ("+Inf", 1)
    assert view.cumulative()[-2] == ("300.0", 0)
    assert view.quantile(0.5) == 300.0


def test_the_mean_is_exact_and_of_nothing_there_is_none() -> None:
    assert of(0.1, 0.2, 4.0).view().mean == pytest.approx(4.3 / 3)
    assert of().view().mean is None
    assert of().view().quantile(0.5) is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_a_quantile_of_spread_values_is_within_five_percent(share: float) -> None:
    values = [0.01 * number for number in range(1, 2001)]
    assert of(*values).view().quantile(share) == pytest.approx(20 * share, rel=0.05)


def test_two_bounds_are_never_further_apart_than_a_factor_of_two() -> None:
    assert list(SECONDS) == sorted(set(SECONDS))
    assert all(later <= 2 * earlier for earlier, later in pairwise(SECONDS))


def test_a_quantile_lies_within_its_bucket_and_at_its_end_where_it_is_used_up() -> None:
    assert of(0.004, 0.004, 0.004, 0.004).view().quantile(0.5) == 0.0025
    assert of(0.004, 0.004, 1.2, 1.2).view().quantile(0.5) == 0.005


def test_a_histogram_says_how_much_it_has_seen() -> None:
    assert repr(of(1.0, 2.0)) == "<Histogram of 2>"
