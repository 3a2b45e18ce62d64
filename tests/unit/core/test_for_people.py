"""What the cores say of themselves to a person who debugs: each repr names its figures."""

from __future__ import annotations

import pytest

from supervisord_ai.core.breaker import Breaker
from supervisord_ai.core.degradation import Degradation
from supervisord_ai.core.histogram import Histogram
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.progress import Progress
from supervisord_ai.core.watchdog import HangWatch, SlotWatch
from supervisord_ai.wire.heads import Headers


def tripped() -> Breaker:
    breaker = Breaker()
    breaker.fault(1.0)
    return breaker


def silent() -> HangWatch:
    watch = HangWatch()
    watch.silent(3.0, 4.0)
    return watch


def counted() -> Histogram:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(0.5)
    histogram.observe(9.0)
    return histogram


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (tripped(), "<Breaker closed, 1 of 5 faults>"),
        (Degradation(LevelsPolicy()), "<Degradation normal, decided normal, {}>"),
        (counted(), "<Histogram of 2>"),
        (Progress(), "<progress None>"),
        (SlotWatch(), "<SlotWatch {}>"),
        (silent(), "<HangWatch silent since 3.0>"),
        (Headers([("Host", "a"), ("host", "b")]), "Headers([('Host', 'a'), ('host', 'b')])"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_a_repr_tells_a_person_what_counts(subject: object, said: str) -> None:
    assert repr(subject) == said
