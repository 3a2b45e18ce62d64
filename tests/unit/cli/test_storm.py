"""What the storm calls kept and what it calls broken."""

from __future__ import annotations

from typing import Any

from supervisord_ai.cli.demo.storm import Storm, judge, page, spans_at

LEVELS = [(100.0, 1), (110.0, 2), (120.0, 3), (140.0, 2), (150.0, 1), (160.0, 0)]


def answer(
    sent_at: float, status: int = 200, *, priority: int = 5, cached: bool = False, retry: float | None = None
) -> dict[str, Any]:
    return {
        "priority": priority,
        "sent_at": sent_at,
        "ended_at": sent_at,
        "status": status,
        "retry_after_s": retry,
        "is_cached": cached,
    }


GOOD = [
    answer(105.0),
    answer(125.0, 503, retry=16),
    answer(130.0, 503, retry=9),
    answer(131.0, cached=True),
    answer(132.0, priority=3),
]


def judged(*answers: dict[str, Any], levels: list[tuple[float, int]] = LEVELS) -> Storm:
    storm = Storm(levels=levels)
    judge(storm, list(answers))
    return storm


def test_a_storm_that_kept_its_promises_has_no_problem() -> None:
    storm = judged(*GOOD)
    assert storm.problems == []
    assert (storm.answered, storm.turned_away, storm.kept_given, storm.own_calls_at_3) == (3, 2, 1, 0)
    assert (storm.waits_promised_s, storm.waits_true_s) == (12.5, 12.5)
    assert "every promise was kept" in page(storm).text()


def test_a_call_that_is_not_urgent_and_reaches_the_engine_at_level_3_is_a_broken_promise() -> None:
    assert judged(*GOOD, answer(130.0)).problems == ["at level 3 1 calls that are not urgent reached the engine"]


def test_around_a_change_nobody_is_blamed() -> None:
    assert judged(*GOOD, answer(120.3), answer(139.8)).problems == []


def test_a_promise_that_is_off_by_more_than_half_is_broken() -> None:
    assert "Retry-After was not right: 40 s were told, 12 s it took" in judged(
        answer(125.0, 503, retry=40), answer(130.0, 503, retry=40)
    ).problems[0]
    assert judged(answer(125.0, 503, retry=1), answer(130.0, 503, retry=1)).problems


def test_a_refusal_without_a_time_is_broken() -> None:
    assert "a 503 came without Retry-After" in judged(answer(125.0, 503), answer(126.0, 503, retry=14)).problems


def test_a_storm_that_proves_nothing_says_so() -> None:
    assert judged(answer(130.0, priority=3)).problems == [
        "at level 3 nobody asked who is not urgent: nothing is proved",
        "at level 3 nobody was turned away",
    ]


def test_a_level_that_never_ended_has_no_span() -> None:
    assert spans_at(LEVELS, 3) == [(120.0, 140.0)]
    assert spans_at(LEVELS[:3], 3) == []
