"""Who starts a call that several wait for, who is taken along, and who pays for it."""

from __future__ import annotations

from dataclasses import replace

from supervisord_ai.core.batch import BatchPolicy
from supervisord_ai.core.scheduler import Expire, Scheduler, SchedulerPolicy, Start
from supervisord_ai.core.waiting import Mergeable, Ticket


def ticket(name: str, *, agent: str | None = None, priority: int = 5, at: float = 0.0, **more: object) -> Ticket:
    made = Ticket(name, agent or name, "sonnet", priority, arrived_at=at, start_by=1000.0, model="m")
    return replace(made, **more)  # type: ignore[arg-type]


def one_slot(slots: int = 1, batch: BatchPolicy | None = None) -> Scheduler:
    scheduler = Scheduler({"main": slots}, SchedulerPolicy(batch=batch or BatchPolicy()))
    scheduler.backend_ready("main", resident=frozenset({"m"}), installed=frozenset({"m"}))
    return scheduler


def starts(scheduler: Scheduler, now: float) -> list[tuple[str, list[str]]]:
    effects = scheduler.decide(now)
    return [(e.ticket.id, [rider.id for rider in e.riders]) for e in effects if isinstance(e, Start)]


def test_whoever_starts_first_takes_the_twins_along() -> None:
    scheduler = one_slot()
    scheduler.push(ticket("leader", shares=b"k", at=0.0))
    scheduler.push(ticket("other", at=1.0))
    scheduler.push(ticket("follower", shares=b"k", at=2.0, priority=1))
    assert starts(scheduler, 3.0) == [("follower", ["leader"])]
    assert scheduler.queued == 1


def test_an_agent_with_a_long_queue_does_not_hold_up_its_twin() -> None:
    scheduler = one_slot()
    for number in range(10):
        scheduler.push(ticket(f"f{number}", agent="flooder", at=float(number), shares=b"k" if number == 9 else None))
    scheduler.push(ticket("quick", at=10.0, shares=b"k"))
    assert starts(scheduler, 11.0) == [("f0", [])]
    scheduler.settle("f0", 12.0)
    assert starts(scheduler, 12.0) == [("quick", ["f9"])]


def test_two_twins_never_start_as_two_calls() -> None:
    scheduler = one_slot(slots=2)
    scheduler.push(ticket("a", shares=b"k"))
    scheduler.push(ticket("b", shares=b"k"))
    assert starts(scheduler, 1.0) == [("a", ["b"])]


def test_a_twin_that_left_or_expired_is_not_taken_along() -> None:
    scheduler = one_slot()
    scheduler.push(ticket("a", shares=b"k"))
    scheduler.push(ticket("b", shares=b"k"))
    scheduler.push(ticket("c", shares=b"k", start_by=5.0))
    scheduler.remove("b")
    effects = scheduler.decide(6.0)
    assert [e.ticket.id for e in effects if isinstance(e, Expire)] == ["c"]
    assert [(e.ticket.id, e.riders) for e in effects if isinstance(e, Start)] == [("a", ())]


def test_the_time_of_a_shared_slot_is_charged_in_parts() -> None:
    scheduler = one_slot()
    a, b, c = ticket("a", shares=b"k"), ticket("b", shares=b"k"), ticket("c", agent="a", at=1.0)
    scheduler.push(a)
    scheduler.push(b)
    scheduler.push(c)
    assert starts(scheduler, 2.0) == [("a", ["b"])]
    scheduler.settle("a", 12.0, parts=[(a, 1.0), (b, 3.0)])
    scheduler.push(ticket("b2", agent="b", at=1.0))
    assert starts(scheduler, 12.0) == [("c", [])]  # a has used 2.5 s, b 7.5 s


def test_a_slot_that_is_handed_over_is_the_heirs() -> None:
    scheduler = one_slot()
    a, b = ticket("a", shares=b"k"), ticket("b", shares=b"k")
    scheduler.push(a)
    scheduler.push(b)
    starts(scheduler, 0.0)
    scheduler.hand_over("a", b)
    assert not scheduler.holds_slot("a")
    assert [lease.ticket.agent for lease in scheduler.leases("main")] == ["b"]
    scheduler.settle("b", 1.0)
    assert scheduler.busy("main") == 0


def test_what_is_put_back_waits_as_it_did() -> None:
    scheduler = one_slot()
    a, b = ticket("a", shares=b"k"), ticket("b", shares=b"k", at=1.0)
    scheduler.push(a)
    scheduler.push(b)
    starts(scheduler, 2.0)
    scheduler.put_back("a", [a, b])
    assert (scheduler.queued, scheduler.busy("main")) == (2, 0)
    assert starts(scheduler, 3.0) == [("a", ["b"])]


MERGES = Mergeable(b"e", 1, 10)


def test_embeds_merge_into_the_last_free_slot_only() -> None:
    scheduler = one_slot(slots=2)
    for name in "abc":
        scheduler.push(ticket(name, merges=MERGES, is_embedding=True))
    assert starts(scheduler, 1.0) == [("a", []), ("b", ["c"])]


def test_a_model_with_one_slot_merges_at_once() -> None:
    scheduler = one_slot(slots=2)
    scheduler.limit_model("main", {"m": 1})
    for name in "abc":
        scheduler.push(ticket(name, merges=MERGES, is_embedding=True))
    assert starts(scheduler, 1.0) == [("a", ["b", "c"])]


def test_a_batch_takes_the_twins_of_its_members_along() -> None:
    scheduler = one_slot(batch=BatchPolicy(requests_max=2))
    scheduler.push(ticket("a", merges=MERGES, shares=b"1"))
    scheduler.push(ticket("a2", merges=MERGES, shares=b"1"))
    scheduler.push(ticket("b", merges=MERGES, shares=b"2"))
    scheduler.push(ticket("b2", merges=MERGES, shares=b"2"))
    assert starts(scheduler, 1.0) == [("a", ["a2", "b", "b2"])]
    assert scheduler.queued == 0
