"""Several backends, breakers, loads and unloads that somebody asked for: which backend begins what, in made-up time."""

from __future__ import annotations

import math

from supervisord_ai.core.scheduler import Load, Scheduler, Start
from supervisord_ai.core.waiting import Mergeable
from tests.unit.core.test_scheduler import ticket

HAS_BOTH = {"resident": frozenset({"small"}), "installed": frozenset({"small", "big"})}
SMALL = frozenset({"small"})
BIG = frozenset({"big"})


def two(**slots: int) -> Scheduler:
    return Scheduler({"first": slots.get("first", 2), "second": slots.get("second", 2)})


def places(scheduler: Scheduler, now: float = 0) -> list[str]:
    return [effect.backend for effect in scheduler.decide(now) if isinstance(effect, Start)]


def test_the_backend_with_the_least_calls_gets_the_next_one() -> None:
    scheduler = two(second=4)
    for name in ("first", "second"):
        scheduler.backend_ready(name, resident=SMALL, installed=SMALL)
    for number in range(6):
        scheduler.push(ticket(f"opus-{number}", model="small"))
    assert places(scheduler) == ["first", "second", "first", "second", "second", "second"]


def test_a_model_is_asked_for_only_where_it_is_installed() -> None:
    scheduler = two()
    scheduler.backend_ready("first", resident=SMALL, installed=SMALL)
    scheduler.backend_ready("second", resident=BIG, installed=BIG)
    for number in range(4):
        scheduler.push(ticket(f"opus-{number}", model="big"))
    assert places(scheduler) == ["second", "second"]


def test_a_model_waits_for_the_backend_that_has_it_even_while_that_is_lost() -> None:
    scheduler = two()
    scheduler.backend_ready("first", resident=SMALL, installed=SMALL)
    scheduler.backend_ready("second", resident=BIG, installed=BIG)
    scheduler.backend_lost("second")
    wants_big = ticket("opus-1", model="big")
    scheduler.push(wants_big)
    assert places(scheduler) == []
    assert scheduler.reason(wants_big, 0) == "no backend that has big answers"
    scheduler.backend_ready("second", resident=BIG, installed=BIG)
    assert places(scheduler) == ["second"]


def test_a_model_that_nobody_has_goes_anywhere_and_gets_the_real_error() -> None:
    scheduler = two()
    scheduler.backend_ready("first", resident=SMALL, installed=SMALL)
    scheduler.push(ticket("opus-1", model="nope"))
    assert places(scheduler) == ["first"]


def test_a_model_is_not_loaded_twice_while_another_backend_has_room_for_it() -> None:
    scheduler = two()
    scheduler.backend_ready("first", resident=frozenset(), installed=SMALL)
    scheduler.backend_ready("second", resident=SMALL, installed=SMALL)
    scheduler.push(ticket("opus-1", model="small"))
    scheduler.push(ticket("opus-2", model="small"))
    assert places(scheduler) == ["second", "second"]
    scheduler.push(ticket("opus-3", model="small"))
    assert scheduler.decide(0) == [Load("first", "small", is_embedding=False)]


def test_one_call_loads_its_model_on_one_backend() -> None:
    scheduler = two()
    for name in ("first", "second"):
        scheduler.backend_ready(name, resident=frozenset(), installed=SMALL)
    scheduler.push(ticket("opus-1", model="small"))
    assert [type(effect) for effect in scheduler.decide(0)] == [Load]


def test_an_open_breaker_starts_nothing_and_lets_nobody_go() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL)
    scheduler.allow("main", 0)
    waits = ticket("opus-1", model="small")
    scheduler.push(waits)
    assert scheduler.decide(0) == []
    assert "breaker" in scheduler.reason(waits, 0)
    assert scheduler.queued == 1


def test_half_open_lets_one_call_through() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL)
    for number in range(5):
        scheduler.push(ticket(f"opus-{number}", model="small"))
    scheduler.allow("main", 1)
    assert len(scheduler.decide(0)) == 1
    assert scheduler.decide(0) == []
    scheduler.allow("main", math.inf)
    assert len(scheduler.decide(0)) == 1


def test_as_many_begin_as_the_breaker_allows() -> None:
    scheduler = Scheduler({"main": 4})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL)
    for number in range(5):
        scheduler.push(ticket(f"opus-{number}", model="small"))
    scheduler.allow("main", 2)
    assert [len(scheduler.decide(now)) for now in (0, 1)] == [2, 0]


def test_while_one_backend_is_open_the_other_serves() -> None:
    scheduler = two()
    for name in ("first", "second"):
        scheduler.backend_ready(name, resident=SMALL, installed=SMALL)
    scheduler.allow("first", 0)
    for number in range(4):
        scheduler.push(ticket(f"opus-{number}", model="small"))
    assert places(scheduler) == ["second", "second"]


def test_of_a_model_that_is_held_nothing_starts_and_others_pass() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=SMALL | BIG, installed=SMALL | BIG)
    scheduler.hold("main", "small")
    held = ticket("opus-1", model="small")
    scheduler.push(held)
    scheduler.push(ticket("opus-2", at=1, model="big"))
    begun = [effect.ticket.model for effect in scheduler.decide(2) if isinstance(effect, Start)]
    assert begun == ["big"]
    assert "unloaded" in scheduler.reason(held, 2)
    scheduler.release("main", "small")
    assert len(scheduler.decide(2)) == 1


def test_a_backend_that_is_held_starts_nothing() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL)
    scheduler.hold("main", None)
    scheduler.push(ticket("opus-1", model="small"))
    assert scheduler.decide(0) == []


def test_a_load_that_was_asked_for_comes_before_whoever_waits() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", **HAS_BOTH)  # type: ignore[arg-type]
    scheduler.push(ticket("opus-1", model="small"))
    scheduler.want(Load("main", "big", is_embedding=False))
    assert scheduler.decide(0) == [Load("main", "big", is_embedding=False)]
    scheduler.loaded("main", "big", is_resident=True)
    assert len(scheduler.decide(0)) == 1


def test_a_load_that_was_asked_for_waits_until_started_calls_hold_their_runner() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", **HAS_BOTH)  # type: ignore[arg-type]
    scheduler.push(ticket("opus-1", model="small"))
    assert len(scheduler.decide(0)) == 1
    scheduler.want(Load("main", "big", is_embedding=False))
    assert scheduler.decide(1) == []
    assert scheduler.next_decision_at(1) == 5
    assert scheduler.decide(5) == [Load("main", "big", is_embedding=False)]


def test_a_load_for_whoever_waits_and_a_callers_own_wait_until_started_calls_hold_their_runner() -> None:
    for is_load in (True, False):
        scheduler = Scheduler({"main": 2})
        scheduler.backend_ready("main", **HAS_BOTH)  # type: ignore[arg-type]
        scheduler.push(ticket("opus-1", model="small"))
        assert len(scheduler.decide(0)) == 1
        scheduler.push(ticket("opus-2", model="big", is_load=is_load))
        assert scheduler.decide(4.9) == []
        assert [type(effect) for effect in scheduler.decide(5)] == [Start if is_load else Load]


def test_what_runs_of_a_model_is_counted_with_its_load() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", **HAS_BOTH)  # type: ignore[arg-type]
    scheduler.push(ticket("opus-1", model="small"))
    scheduler.decide(0)
    scheduler.want(Load("main", "big", is_embedding=False))
    scheduler.decide(10)
    assert [scheduler.in_flight("main", model) for model in ("small", "big", None)] == [1, 1, 2]


def test_a_model_that_lies_on_the_processor_is_loaded_for_whoever_is_too_urgent_for_it() -> None:
    """Found by a state machine: nobody served the urgent one, each backend leaving it to the other."""
    scheduler = Scheduler({"gpu": 2, "cpu": 1}, on_cpu=("cpu",))
    scheduler.backend_ready("gpu", resident=frozenset(), installed=SMALL)
    scheduler.backend_ready("cpu", resident=SMALL, installed=SMALL)
    scheduler.push(ticket("opus-1", priority=1, model="small"))
    assert scheduler.decide(0) == [Load("gpu", "small", False)]
    scheduler.push(ticket("sonnet-1", priority=5, model="small"))
    assert places(scheduler) == ["cpu"]


def test_a_load_that_reached_nobody_is_no_load_under_way() -> None:
    scheduler = Scheduler({"main": 1})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL | BIG)
    load = ticket("opus-1", model="big", is_load=True)
    scheduler.push(load)
    assert places(scheduler) == ["main"]
    scheduler.push(ticket("opus-2", model="small"))
    assert places(scheduler) == []
    scheduler.put_back(load.id)
    scheduler.remove(load.id)
    assert places(scheduler) == ["main"]  # the slot is free, and what is loaded may be called


def test_while_something_is_unloaded_what_is_loaded_starts_and_nothing_is_loaded() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", **HAS_BOTH)  # type: ignore[arg-type]
    scheduler.hold_loads("main", True)
    scheduler.push(ticket("opus-1", model="big"))
    scheduler.push(ticket("opus-2", model="small", is_load=True))
    assert scheduler.decide(0) == []
    scheduler.push(ticket("opus-3", model="small"))
    assert [effect.ticket.agent for effect in scheduler.decide(0) if isinstance(effect, Start)] == ["opus-3"]
    scheduler.settle(scheduler.leases("main")[0].ticket.id, 1)
    scheduler.hold_loads("main", False)
    assert [effect.ticket.agent for effect in scheduler.decide(1) if isinstance(effect, Start)] == ["opus-2"]


def test_a_model_has_its_own_slots_and_never_more_than_the_backend() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=SMALL, model_slots={"embed": 1, "wide": 4})
    assert [scheduler.model_slots("main", name) for name in ("embed", "wide", "small")] == [1, 2, 2]


def test_embeds_are_merged_only_where_no_second_call_could_start_beside() -> None:
    merges = [Mergeable(b"k", 1, 10) for _ in range(2)]
    for slots, model_slots, riders in ((1, {}, 1), (2, {}, 0), (3, {"small": 1}, 1)):
        scheduler = Scheduler({"main": slots})
        scheduler.backend_ready("main", resident=SMALL, installed=SMALL, model_slots=model_slots)
        for number, each in enumerate(merges):
            scheduler.push(ticket(f"opus-{number}", model="small", is_embedding=True, merges=each))
        first = next(effect for effect in scheduler.decide(0) if isinstance(effect, Start))
        assert len(first.riders) == riders


def test_a_call_that_may_not_be_merged_takes_nobody_along() -> None:
    scheduler = Scheduler({"main": 1})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL)
    scheduler.push(ticket("opus-1", model="small", is_embedding=True))
    scheduler.push(ticket("opus-2", at=1, model="small", is_embedding=True, merges=Mergeable(b"k", 1, 10)))
    (first,) = [effect for effect in scheduler.decide(2) if isinstance(effect, Start)]
    assert (first.ticket.agent, first.riders) == ("opus-1", ())


def test_when_an_urgent_one_starts_is_told_without_the_slots_that_it_will_not_take() -> None:
    scheduler = Scheduler({"gpu": 1, "cpu": 1}, on_cpu=("cpu",))
    for name in ("gpu", "cpu"):
        scheduler.backend_ready(name, resident=SMALL, installed=SMALL)
    scheduler.service.note("small", 10.0)
    scheduler.push(ticket("opus-1", priority=1, model="small"))
    assert places(scheduler) == ["gpu"]
    for priority, starts_at in ((1, 10.0), (9, 0.0)):
        told = scheduler.forecast(ticket("opus-2", priority=priority, model="small"), 0.0)
        assert told is not None
        assert told.starts_at == starts_at


def test_what_starts_too_late_to_matter_is_only_reckoned() -> None:
    scheduler = Scheduler({"main": 1})
    scheduler.backend_ready("main", resident=SMALL | BIG, installed=SMALL | BIG)
    scheduler.service.note("small", 10.0)
    scheduler.service.note("big", 100.0)
    scheduler.push(ticket("opus-0", model="small"))
    assert places(scheduler) == ["main"]
    for agent, model in (("opus-1", "small"), ("opus-2", "big"), ("opus-3", "small")):
        scheduler.push(ticket(agent, model=model))
    mine = scheduler.order()[-1]
    exact, reckoned = scheduler.forecast(mine, 0.0), scheduler.forecast(mine, 0.0, until=5.0)
    assert exact is not None
    assert reckoned is not None
    assert (exact.starts_at, reckoned.starts_at) == (120.0, 30.0)


def test_a_model_that_is_given_no_slot_is_foretold_by_those_of_its_backend() -> None:
    scheduler = Scheduler({"main": 1})
    scheduler.backend_ready("main", resident=SMALL, installed=SMALL, model_slots={"small": 0})
    told = scheduler.forecast(ticket("opus-1", model="small"), 3.0)
    assert told is not None
    assert told.starts_at == 3.0
