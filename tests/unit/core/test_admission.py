"""Who may wait, and what may be asked for, in made-up time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.admission import (
    Admitted,
    Asked,
    CacheWish,
    Counts,
    Rejected,
    StartsAt,
    admit,
    priority_for,
    read_asked,
)
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.rate_limit import Rate
from supervisord_ai.core.roster import CLASS_DEFAULTS, ClassPolicy, OverRate
from supervisord_ai.errors import Refused

OPUS = CLASS_DEFAULTS["opus"]


def decide(
    asked: Asked = Asked(),  # noqa: B008 - a frozen value
    policy: ClassPolicy = OPUS,
    *,
    rate: Rate | None = None,
    counts: Counts = Counts(),  # noqa: B008 - a frozen value
    one_body_s: float | None = None,
    starts_at: StartsAt | None = None,
    now: float = 100.0,
) -> Admitted | Rejected:
    return admit(asked, policy, QueuePolicy(), rate, counts, now=now, one_body_s=one_body_s, starts_at=starts_at)


def test_a_plain_request_waits_until_the_common_deadline_with_the_priority_of_its_class() -> None:
    assert decide() == Admitted(priority=3, start_by=340.0, not_before=100.0)
    assert decide(Asked(priority=7)) == Admitted(priority=7, start_by=340.0, not_before=100.0)


def test_the_time_of_who_had_to_wait_before_it_could_be_judged_runs_since_it_came() -> None:
    admitted = admit(Asked(deadline_s=30.0), OPUS, QueuePolicy(), None, Counts(), now=100.0, came_at=90.0)
    assert admitted == Admitted(priority=3, start_by=120.0, not_before=100.0)


@pytest.mark.parametrize(("asked", "given"), [(None, 3), (1, 2), (2, 2), (3, 3), (7, 7), (10, 10)])
def test_nobody_gets_a_better_priority_than_the_ceiling_of_its_class(asked: int | None, given: int) -> None:
    assert priority_for(asked, OPUS) == given


def test_a_caller_with_too_many_waiting_is_told_to_come_back() -> None:
    rejected = decide(counts=Counts(of_agent=OPUS.max_queued, whole=2 * OPUS.max_queued, wait_s=20.0))
    assert isinstance(rejected, Rejected)
    assert (rejected.status, rejected.retry_after_s) == (429, 10.0)


def test_that_callers_wait_is_its_part_of_everybodys_asynchronous_ones_included() -> None:
    rejected = decide(counts=Counts(of_agent=64, whole=64, asynchronous=64, wait_s=20.0))
    assert isinstance(rejected, Rejected)
    assert rejected.retry_after_s == 10.0
    alone = decide(policy=replace(OPUS, max_queued=1), counts=Counts(of_agent=1, whole=1, wait_s=20.0))
    assert isinstance(alone, Rejected)
    assert alone.retry_after_s == 20.0


def test_a_full_backlog_is_everybodys_and_503() -> None:
    rejected = decide(counts=Counts(whole=1000, wait_s=500.0))
    assert isinstance(rejected, Rejected)
    assert (rejected.status, rejected.retry_after_s) == (503, 60.0)


def test_over_its_rate_a_request_waits_for_its_place() -> None:
    rate = Rate(10)
    places = [decide(rate=rate) for _ in range(12)]
    assert [p.not_before for p in places if isinstance(p, Admitted)] == pytest.approx([100.0] * 10 + [106.0, 112.0])


def test_over_its_rate_a_request_is_refused_where_its_class_says_so_and_takes_no_place() -> None:
    policy = replace(OPUS, over_rate=OverRate.REJECT)
    rate = Rate(10)
    for _ in range(10):
        assert isinstance(decide(policy=policy, rate=rate), Admitted)
    for _ in range(3):
        rejected = decide(policy=policy, rate=rate)
        assert isinstance(rejected, Rejected)
        assert (rejected.status, rejected.retry_after_s) == (429, 6.0)


def test_a_place_after_the_deadline_is_no_place() -> None:
    rate = Rate(10)
    for _ in range(11):
        decide(rate=rate)
    assert isinstance(decide(Asked(deadline_s=5.0), rate=rate), Rejected)
    its_turn = rate.next_at(100.0) - 100.0
    assert isinstance(decide(Asked(deadline_s=its_turn), rate=rate), Rejected)
    assert isinstance(decide(Asked(deadline_s=50.0), rate=rate), Admitted)


@pytest.mark.parametrize(
    ("asked_s", "generation_s", "within_s"),
    [(None, None, 240), (None, 20, 240), (None, 80, 210), (285, 20, 270), (30, 80, 30), (None, 400, 10), (3600, None, 3600)],
)
def test_who_gets_one_body_starts_so_that_it_can_end_before_node_gives_up(
    asked_s: float | None, generation_s: float | None, within_s: float
) -> None:
    admitted = decide(Asked(deadline_s=asked_s), one_body_s=generation_s)
    assert isinstance(admitted, Admitted)
    assert admitted.start_by == 100 + within_s


def test_a_deadline_that_cannot_be_met_is_refused_at_the_door_with_when_it_could_be() -> None:
    rate = Rate(10)
    rejected = decide(rate=rate, starts_at=lambda admitted: admitted.start_by + 17.2)
    assert isinstance(rejected, Rejected)
    assert (rejected.status, rejected.retry_after_s) == (503, 18.0)
    assert rejected.message == "it would start in about 257 s, and its deadline to start is in 240 s"
    assert isinstance(decide(starts_at=lambda admitted: admitted.start_by), Rejected)
    assert rate.next_at(100.0) == 100.0
    assert all(isinstance(decide(rate=rate, starts_at=lambda _: 100.0), Admitted) for _ in range(10))  # it took no place


def test_what_cannot_be_foretold_is_admitted() -> None:
    assert isinstance(decide(starts_at=lambda _: None), Admitted)


def test_asynchronous_requests_have_a_deadline_and_a_bound_of_their_own() -> None:
    asked = Asked(is_async=True)
    full = Counts(of_agent=64, whole=1000, asynchronous=49_999)
    admitted = decide(asked, counts=full, one_body_s=500.0)
    assert admitted == Admitted(priority=3, start_by=86_500.0, not_before=100.0, is_async=True)
    rejected = decide(asked, counts=replace(full, asynchronous=50_000, wait_s=9.0))
    assert isinstance(rejected, Rejected)
    assert (rejected.status, rejected.retry_after_s) == (503, 9.0)
    assert isinstance(decide(counts=Counts(asynchronous=50_000)), Admitted)


def test_a_guest_may_not_fill_the_disk() -> None:
    rejected = decide(Asked(is_async=True), CLASS_DEFAULTS["guest"], counts=Counts(of_agent=8, asynchronous=8))
    assert isinstance(rejected, Rejected)
    assert rejected.status == 429


@pytest.mark.parametrize(
    ("text", "is_async"),
    [("respond-async", True), ("Respond-Async; x=1", True), ("wait=10,respond-async", True), ("wait=10", False), ("", False)],
)
def test_a_preference_is_one_of_a_list(text: str, is_async: bool) -> None:
    assert read(Prefer=text).is_async is is_async


def test_a_bucket_fills_with_time() -> None:
    rate = Rate(60)
    for _ in range(60):
        assert rate.take(0.0) == 0.0
    assert rate.take(0.0) == pytest.approx(1.0)
    assert rate.next_at(3.0) == 3.0
    assert rate.next_at(1000.0) == 1000.0
    for _ in range(60):
        rate.take(1000.0)
    assert rate.next_at(1000.0) == pytest.approx(1001.0)


def test_a_rate_of_nothing_is_no_rate() -> None:
    with pytest.raises(ValueError, match="more than zero"):
        Rate(0)


def read(**headers: str) -> Asked:
    return read_asked({name.replace("_", "-"): text for name, text in headers.items()}.get)


def test_what_is_asked_is_read() -> None:
    asked = read(Idempotency_Key="k 1", X_AI_Priority="2", X_AI_Deadline="1.5", Cache_Control="No-Cache, max-age=10")
    assert asked == Asked("k 1", 2, 1.5, CacheWish(no_cache=True, max_age_s=10.0))
    assert read() == Asked()
    assert read(Cache_Control="no-store, Only-If-Cached").cache == CacheWish(no_store=True, only_if_cached=True)
    assert read(Cache_Control='max-age="10"').cache == CacheWish(max_age_s=10.0)


def test_what_is_asked_may_be_as_little_and_as_much_as_is_said() -> None:
    for key in ("k", "x" * 255):
        assert read(Idempotency_Key=key).key == key
    assert [read(X_AI_Priority=text).priority for text in ("1", "10")] == [1, 10]
    assert [read(X_AI_Deadline=text).deadline_s for text in ("0.001", "86400")] == [0.001, 86_400.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X_AI_Priority", "0"), ("X_AI_Priority", "11"), ("X_AI_Priority", "high"), ("X_AI_Priority", "²"), ("X_AI_Priority", ""),
        ("X_AI_Priority", "007"), ("X_AI_Deadline", "86400.1"),
        ("X_AI_Deadline", "0"), ("X_AI_Deadline", "-1"), ("X_AI_Deadline", "nan"), ("X_AI_Deadline", "inf"),
        ("X_AI_Deadline", "soon"), ("Idempotency_Key", ""), ("Idempotency_Key", "x" * 256), ("Idempotency_Key", "a\x7fb"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**{name: text})
    assert refused.value.status == 400
    assert name.replace("_", "-") in refused.value.message


def test_an_age_that_cannot_be_read_counts_as_stale() -> None:
    assert read(Cache_Control="max-age=soon").cache.max_age_s == 0.0


def test_the_model_that_was_asked_for_can_be_insisted_on_in_one_word_only() -> None:
    assert read(X_AI_Require_Model=" Exact ").is_exact
    with pytest.raises(Refused, match="X-AI-Require-Model can only be: exact") as refused:
        read(X_AI_Require_Model="please")
    assert refused.value.status == 400


def test_a_rate_below_one_a_minute_lets_one_through_and_makes_the_next_wait_its_time() -> None:
    rate = Rate(0.5)
    assert [rate.take(0.0) for _ in range(3)] == [0.0, 120.0, 240.0]
    assert [once.take(0.0) for once in [Rate(1)] for _ in range(2)] == [0.0, 60.0]
