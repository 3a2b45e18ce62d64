"""One sentence about the cache that a tired owner understands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.cache_advice import CacheFigures, advice

BASE = CacheFigures(hits=300, misses=700, random=0, saved_s=9000, evicted=0, fullest="cache.l2", fill=0.3, scope="shared")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "The cache answers 30% of what it may, and saved 2.5 hours of the model's time: leave it as it is."),
        ({"hits": 10, "misses": 20}, "Too early to tell: 30 requests so far."),
        ({"hits": 0, "misses": 0, "random": 2000}, "2000 of 2000 requests ask for a random answer"),
        ({"random": 2000}, "2000 of 3000 requests ask for a random answer"),
        ({"evicted": 400, "fill": 0.99, "fullest": "cache.l3"}, "make [cache.l3] size larger, if the disk has room"),
        ({"evicted": 400, "fill": 0.5}, "leave it as it is"),
        ({"hits": 20, "misses": 30}, "The cache answers 40%"),  # fifty can tell
        ({"random": 1000}, "leave it as it is"),  # a half is not most
        ({"evicted": 300, "fill": 0.99}, "leave it as it is"),  # as many as it gives
        ({"evicted": 400, "fill": 0.9}, "leave it as it is"),
        ({"hits": 100, "misses": 900}, "The cache answers 10% of what it may"),
        ({"hits": 10, "scope": "agent"}, 'scope = "shared" finds more'),
        ({"hits": 10}, "these agents seldom ask the same"),
    ],
)
def test_the_advice_names_the_one_thing_worth_doing(changed: dict[str, object], words: str) -> None:
    said = advice(replace(BASE, **changed))  # type: ignore[arg-type]
    assert words in said
    assert len(said) < 240


def test_much_time_saved_is_told_in_hours() -> None:
    told = [advice(replace(BASE, saved_s=seconds)) for seconds in (90.0, 600.0, 9000.0)]
    assert [words in one for words, one in zip(("90 s", "10 minutes", "2.5 hours"), told, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(119.0, "119 s"), (120.0, "2 minutes"), (6000.0, "100 minutes"), (7200.0, "2.0 hours"), (3_600_000.0, "1000.0 hours")],
)
def test_time_is_told_in_the_unit_that_says_it_shortest(seconds: float, words: str) -> None:
    assert f"saved {words} of the model's time" in advice(replace(BASE, saved_s=seconds))
