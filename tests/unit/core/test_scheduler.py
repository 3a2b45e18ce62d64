"""Which waiting request starts next, in made-up time."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.scheduler import Expire, Load, Scheduler, SchedulerPolicy, Start, Ticket

NUMBERS = itertools.count()
FAR = 1e9


def ticket(agent: str, at: float = 0.0, priority: int = 5, **more: object) -> Ticket:
    made = Ticket(
        id=f"{agent}#{next(NUMBERS)}",
        agent=agent,
        agent_class=agent.partition("-")[0],
        priority=priority,
        arrived_at=at,
        start_by=FAR,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def ready(slots: int = 1, policy: SchedulerPolicy | None = None, **known: object) -> Scheduler:
    scheduler = Scheduler({"main": slots}, policy)
    scheduler.backend_ready("main", **({"resident": frozenset()} | known))  # type: ignore[arg-type]
    return scheduler


def started(scheduler: Scheduler, now: float) -> list[Ticket]:
    return [effect.ticket for effect in scheduler.decide(now) if isinstance(effect, Start)]


def turns(scheduler: Scheduler, now: float, count: int, each_s: float = 1.0) -> list[Ticket]:
    """Who is served on one slot, `each_s` each."""
    served: list[Ticket] = []
    while len(served) < count:
        begun = started(scheduler, now)
        assert len(begun) == 1
        served += begun
        now += each_s
        scheduler.settle(begun[0].id, now)
    return served


# --- slots ------------------------------------------------------------------------------------------------------------


def test_no_more_start_than_there_are_slots() -> None:
    scheduler = ready(slots=2)
    for number in range(131):
        scheduler.push(ticket(f"opus-{number}"))
    assert len(started(scheduler, 0)) == 2
    assert started(scheduler, 0) == []
    scheduler.settle(scheduler.leases("main")[0].ticket.id, 1)
    assert len(started(scheduler, 1)) == 1


def test_nothing_starts_on_a_backend_that_is_lost() -> None:
    scheduler = ready(slots=2)
    scheduler.backend_lost("main")
    scheduler.push(ticket("opus-1"))
    assert scheduler.decide(0) == []
    scheduler.backend_ready("main", resident=frozenset())
    assert len(started(scheduler, 1)) == 1


def test_a_model_with_fewer_slots_holds_back_its_own_calls_only() -> None:
    scheduler = ready(slots=2, model_slots={"embed": 1})
    for number in range(2):
        scheduler.push(ticket(f"opus-{number}", model="embed"))
    scheduler.push(ticket("sonnet-1", at=5, model="chat"))
    assert [t.model for t in started(scheduler, 10)] == ["embed", "chat"]


def test_a_ticket_waits_once() -> None:
    scheduler = ready()
    waiting = ticket("opus-1")
    scheduler.push(waiting)
    with pytest.raises(ValueError, match="already waiting"):
        scheduler.push(waiting)


def test_a_removed_ticket_never_starts() -> None:
    scheduler = ready()
    waiting = ticket("opus-1")
    scheduler.push(waiting)
    assert scheduler.remove(waiting.id) is waiting
    assert scheduler.remove(waiting.id) is None
    assert scheduler.decide(0) == []
    assert scheduler.queued_of("opus-1") == 0


def test_a_ticket_that_reached_nobody_stands_where_it_stood() -> None:
    scheduler = ready()
    first, second = ticket("opus-1", at=0), ticket("opus-2", at=1)
    scheduler.push(first)
    scheduler.push(second)
    assert started(scheduler, 10) == [first]
    scheduler.put_back(first.id)
    assert scheduler.leases("main") == ()
    assert started(scheduler, 11) == [first]


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_better_priority_goes_first() -> None:
    scheduler = ready()
    late, urgent = ticket("sonnet-1", at=0, priority=5), ticket("opus-1", at=3, priority=3)
    scheduler.push(late)
    scheduler.push(urgent)
    assert started(scheduler, 10) == [urgent]


def test_fifteen_seconds_of_age_beat_one_level() -> None:
    scheduler = ready()
    old, better = ticket("sonnet-1", at=0, priority=5), ticket("sonnet-2", at=21, priority=4)
    scheduler.push(better)
    scheduler.push(old)
    assert started(scheduler, 30) == [old]


def test_an_agents_requests_start_by_priority_then_age() -> None:
    scheduler = ready()
    first, second, urgent = ticket("opus-1", at=0), ticket("opus-1", at=1), ticket("opus-1", at=2, priority=2)
    for each in (second, first, urgent):
        scheduler.push(each)
    assert turns(scheduler, 10, 3) == [urgent, first, second]


def test_131_agents_with_20_requests_each_are_all_served_within_131_turns() -> None:
    scheduler = ready()
    agents = [f"opus-{number}" for number in range(131)]
    for name in agents:
        for _ in range(20):
            scheduler.push(ticket(name))
    served = turns(scheduler, 0, 262)
    assert {t.agent for t in served[:131]} == set(agents)
    assert {t.agent for t in served[131:]} == set(agents)


def test_a_flooder_costs_another_agent_one_turn() -> None:
    scheduler = ready()
    for number in range(64):
        scheduler.push(ticket("opus-flood", at=number * 0.01))
    turns(scheduler, 1, 20)
    newcomer = ticket("opus-new", at=21)
    scheduler.push(newcomer)
    assert newcomer in turns(scheduler, 21, 2)


def test_among_equals_the_least_served_per_weight_goes_first() -> None:
    scheduler = ready()
    for name in ("opus-a", "opus-b"):
        scheduler.push(ticket(name, weight=2.0 if name == "opus-a" else 1.0))
    served = turns(scheduler, 0, 2, each_s=10)
    assert {t.agent for t in served} == {"opus-a", "opus-b"}
    heavy, light = ticket("opus-a", at=20, weight=2.0), ticket("opus-b", at=20)
    scheduler.push(light)
    scheduler.push(heavy)
    assert started(scheduler, 30) == [heavy]  # both have used ten seconds, and it may use twice as much


@pytest.mark.parametrize(("later_s", "goes"), [(4.9, "opus-b"), (5.0, "opus-a")])
def test_the_least_served_goes_first_only_among_those_within_five_seconds(later_s: float, goes: str) -> None:
    scheduler = ready()
    scheduler.push(ticket("opus-a"))
    turns(scheduler, 0, 1, each_s=10)
    scheduler.push(ticket("opus-a", at=20.0))
    scheduler.push(ticket("opus-b", at=20.0 + later_s))
    assert [one.agent for one in started(scheduler, 30)] == [goes]


def test_what_runs_counts_among_equals_for_as_long_as_it_has_run() -> None:
    scheduler = ready(slots=2)
    scheduler.push(ticket("opus-much"))
    (much,) = started(scheduler, 40.0)
    scheduler.settle(much.id, 100.0, ended_well=False)  # so that nothing is learned of how long a call takes
    scheduler.push(ticket("opus-runs", at=100.0))
    assert len(started(scheduler, 100.0)) == 1
    for agent in ("opus-much", "opus-runs"):
        scheduler.push(ticket(agent, at=110.0))
    assert [one.agent for one in started(scheduler, 120.0)] == ["opus-runs"]  # 20 s by now, and the other 43


def test_all_that_runs_of_an_agent_counts_against_it() -> None:
    scheduler = ready(slots=3)
    scheduler.push(ticket("opus-much"))
    (much,) = started(scheduler, 70.0)
    scheduler.settle(much.id, 100.0, ended_well=False)
    for _ in range(2):
        scheduler.push(ticket("opus-runs", at=100.0))
    assert len(started(scheduler, 100.0)) == 2
    for agent in ("opus-runs", "opus-much"):
        scheduler.push(ticket(agent, at=110.0))
    assert [one.agent for one in started(scheduler, 120.0)] == ["opus-much"]  # 21 s by now, and the other twice 20


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 100), st.integers(1, 10), st.sampled_from(["a", "b", None])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_everything_that_waits_is_started_once_and_never_beyond_the_slots(
    asked: list[tuple[int, float, int, str | None]], slots: int
) -> None:
    scheduler = ready(slots=slots, installed=frozenset({"a", "b"}), model_slots={"b": 1})
    for number, at, priority, model in asked:
        scheduler.push(ticket(f"opus-{number}", at=at, priority=priority, model=model))
    seen: list[str] = []
    now = 200.0
    for _ in range(10 * len(asked) + 10):
        for effect in scheduler.decide(now):
            match effect:
                case Start(ticket=begun):
                    seen.append(begun.id)
                case Load(model=model):
                    scheduler.loaded("main", model, is_resident=True)
                case Expire():
                    raise AssertionError
        assert scheduler.busy("main") <= slots
        assert sum(lease.ticket.model == "b" for lease in scheduler.leases("main")) <= 1
        now += 1
        for lease in scheduler.leases("main")[:1]:
            scheduler.settle(lease.ticket.id, now)
    assert len(seen) == len(set(seen)) == len(asked)
    assert scheduler.queued == 0


# --- floors -----------------------------------------------------------------------------------------------------------


def test_a_class_with_work_keeps_a_tenth_of_the_slots() -> None:
    scheduler = ready()
    now, used = 0.0, {"opus": 0.0, "sonnet": 0.0}
    for step in range(3000):
        while scheduler.queued_of(f"opus-{step % 36}") < 1:
            scheduler.push(ticket(f"opus-{step % 36}", at=now, priority=1))
        while scheduler.queued_of("sonnet-1") < 2:
            scheduler.push(ticket("sonnet-1", at=now, priority=10))
        for begun in started(scheduler, now):
            now += 1
            scheduler.settle(begun.id, now)
            used[begun.agent_class] += 1
    assert 0.08 <= used["sonnet"] / now <= 0.2


def test_a_quiet_class_does_not_overtake_an_urgent_request_at_once() -> None:
    scheduler = ready()
    scheduler.push(ticket("opus-1", at=0, priority=3))
    turns(scheduler, 0, 1, each_s=20)
    guest, urgent = ticket("guest", at=20, priority=8), ticket("opus-2", at=20.1, priority=1)
    scheduler.push(guest)
    scheduler.push(urgent)
    assert started(scheduler, 21) == [urgent]


@pytest.mark.parametrize(("now", "goes"), [(34.9, "opus-2"), (35.0, "guest")])
def test_a_class_that_has_had_nothing_goes_first_when_one_of_it_has_waited_for_fifteen_seconds(now: float, goes: str) -> None:
    scheduler = ready()
    scheduler.push(ticket("opus-1", at=0))
    turns(scheduler, 0, 1, each_s=20)
    scheduler.push(ticket("guest", at=20, priority=8))
    scheduler.push(ticket("opus-2", at=20, priority=1))
    assert [one.agent for one in started(scheduler, now)] == [goes]


# --- time -------------------------------------------------------------------------------------------------------------


def test_nothing_starts_before_its_time_and_the_next_decision_is_then() -> None:
    scheduler = ready()
    later = ticket("opus-1", not_before=5.0)
    scheduler.push(later)
    assert scheduler.decide(0) == []
    assert scheduler.next_decision_at(0) == 5.0
    assert started(scheduler, 5.0) == [later]


def test_a_request_whose_time_to_start_has_passed_expires_instead() -> None:
    scheduler = ready()
    late = ticket("opus-1", start_by=10.0)
    scheduler.push(late)
    assert scheduler.next_decision_at(0) == 10.0
    assert scheduler.decide(10.0) == [Expire(late)]
    assert scheduler.queued == 0


def test_an_agent_whose_first_may_not_start_yet_offers_its_second() -> None:
    scheduler = ready()
    scheduler.push(ticket("opus-1", at=0, not_before=50.0))
    second = ticket("opus-1", at=1)
    scheduler.push(second)
    assert started(scheduler, 2) == [second]


# --- loads ------------------------------------------------------------------------------------------------------------

BOTH = frozenset({"a", "b"})


def test_a_model_that_is_not_resident_is_loaded_first_and_alone() -> None:
    scheduler = ready(slots=2, installed=BOTH)
    scheduler.push(ticket("opus-1", model="a"))
    scheduler.push(ticket("opus-2", model="a"))
    assert scheduler.decide(0) == [Load("main", "a", is_embedding=False)]
    assert scheduler.busy("main") == 1
    assert scheduler.decide(1) == []
    scheduler.loaded("main", "a", is_resident=True)
    assert len(started(scheduler, 2)) == 2


def test_a_model_that_is_not_installed_needs_no_load_to_be_refused() -> None:
    scheduler = ready(installed=BOTH)
    unknown = ticket("opus-1", model="nope")
    scheduler.push(unknown)
    assert started(scheduler, 0) == [unknown]


def test_callers_of_a_model_that_does_not_load_are_let_through_to_the_real_error() -> None:
    scheduler = ready(installed=BOTH)
    waiting = ticket("opus-1", model="a")
    scheduler.push(waiting)
    scheduler.decide(0)
    scheduler.loaded("main", "a", is_resident=False)
    assert started(scheduler, 1) == [waiting]


def test_a_load_asked_for_by_a_caller_uses_the_load_lane() -> None:
    scheduler = ready(slots=2, installed=BOTH)
    load = ticket("owner", model="a", is_load=True)
    scheduler.push(load)
    scheduler.push(ticket("opus-1", at=1, model="b"))
    assert scheduler.decide(2) == [Start(load, "main")]
    assert (scheduler.busy("main"), scheduler.loading("main")) == (1, "a")
    scheduler.settle(load.id, 5)
    assert scheduler.loading("main") is None
    assert scheduler.decide(6) == [Load("main", "b", is_embedding=False)]


def passed_by(scheduler: Scheduler, now: float) -> int:
    """How many start before the next model is loaded, on one slot."""
    for passed in range(20):
        (effect,) = scheduler.decide(now)
        if isinstance(effect, Load):
            scheduler.loaded("main", effect.model, is_resident=True)
            scheduler.backend_ready("main", resident=frozenset({effect.model}), installed=BOTH)
            return passed
        assert isinstance(effect, Start)
        scheduler.settle(effect.ticket.id, now)
    raise AssertionError


def test_one_whose_model_is_not_loaded_is_passed_by_so_many_and_no_more_each_time() -> None:
    scheduler = ready(policy=SchedulerPolicy(bypass_max=3), resident=frozenset({"a"}), installed=BOTH)
    scheduler.push(ticket("opus-b", at=0, model="b"))
    for number in range(8):
        scheduler.push(ticket(f"opus-{number}", at=10 + number, model="a"))
    assert passed_by(scheduler, 50) == 3
    for number in range(8):
        scheduler.push(ticket(f"sonnet-{number}", at=30 + number, model="b"))
    assert passed_by(scheduler, 50) == 1 + 3  # the one that waited is first, and passes nobody


def test_a_hundred_alternating_calls_for_two_models_swap_few_times_and_starve_nobody() -> None:
    """Only one of the two fits into memory: each load pushes the other out."""
    scheduler = ready(slots=2, installed=BOTH)
    for number in range(100):
        scheduler.push(ticket(f"opus-{number}", at=number * 0.01, model="ab"[number % 2]))
    now, loads, waits = 10.0, 0, []
    while scheduler.queued or scheduler.busy("main"):
        for effect in scheduler.decide(now):
            match effect:
                case Load(model=model):
                    loads += 1
                    scheduler.loaded("main", model, is_resident=True)
                    scheduler.backend_ready("main", resident=frozenset({model}), installed=BOTH)
                case Start(ticket=begun):
                    assert begun.model in scheduler.resident("main")
                    waits.append(now - begun.arrived_at)
                case Expire():
                    raise AssertionError
        now += 1
        for lease in scheduler.leases("main"):
            scheduler.settle(lease.ticket.id, now)
    assert loads <= 6
    assert len(waits) == 100


# --- looks ------------------------------------------------------------------------------------------------------------


def test_a_waiting_ticket_knows_its_place_and_its_reason() -> None:
    scheduler = ready(slots=1)
    running, first, second = ticket("opus-1"), ticket("opus-2", at=1), ticket("opus-3", at=2)
    for each in (running, first, second):
        scheduler.push(each)
    scheduler.decide(3)
    standing = scheduler.standing(second.id, 3)
    assert standing is not None
    assert (standing.ahead, standing.reason) == (1, "all slots are busy")
    assert scheduler.standing(running.id, 3) is None
    scheduler.backend_lost("main")
    assert scheduler.reason(second, 3) == "no backend answers"


def test_what_is_told_of_the_whole_queue() -> None:
    scheduler = ready(slots=2)
    first, second = ticket("opus-1", model="m"), ticket("opus-1", at=1.0, model="m", is_async=True)
    scheduler.push(first)
    scheduler.push(second)
    assert (scheduler.queued, scheduler.queued_of("opus-1"), scheduler.queued_async(), scheduler.slots) == (2, 2, 1, 2)
    assert scheduler.waiting(second.id) == second
    assert [one.id for one in scheduler.on_connections()] == [first.id]
    assert scheduler.waiting_models() == {"m": 2}
    assert [one.id for one in scheduler.order()] == [first.id, second.id]


def test_a_load_is_wanted_once_and_until_it_has_come_to_its_end() -> None:
    scheduler = ready()
    wanted = Load("main", "m", False)
    assert not scheduler.is_wanted(wanted)
    scheduler.want(wanted)
    scheduler.want(wanted)
    assert scheduler.is_wanted(wanted)
    assert [effect for effect in scheduler.decide(0.0) if isinstance(effect, Load)] == [wanted]
    assert scheduler.is_wanted(wanted)  # it is being loaded


def test_agents_whose_use_has_faded_are_forgotten_when_there_are_many() -> None:
    scheduler = ready(slots=1000)
    for number in range(600):
        scheduler.push(ticket(f"guest-{number}"))
    for one in started(scheduler, 0.0):
        scheduler.settle(one.id, 1.0)
    scheduler.push(ticket("opus-1", at=1e6))
    (last,) = started(scheduler, 1e6)
    scheduler.settle(last.id, 1e6 + 1)
    assert len(scheduler._turn_at) <= 2


def test_each_priority_says_how_many_wait_since_when_and_when_a_newcomer_would_start() -> None:
    scheduler = ready()
    scheduler.service.note("m", 10.0)
    for agent, at, priority in (("opus-1", 1.0, 3), ("opus-2", 2.0, 5), ("opus-3", 3.0, 5)):
        scheduler.push(ticket(agent, at=at, priority=priority, model="m"))
    first, second = scheduler.priorities(4.0)
    assert (first.priority, first.queued, first.oldest_at) == (3, 1, 1.0)
    assert (second.priority, second.queued, second.oldest_at) == (5, 2, 2.0)
    assert first.newcomer_starts_at == 14.0  # behind the one that is there
    assert second.newcomer_starts_at == 34.0  # behind all three
    scheduler.backend_lost("main")
    assert [one.newcomer_starts_at for one in scheduler.priorities(4.0)] == [None, None]


# --- what a call leaves behind ----------------------------------------------------------------------------------------


def test_a_call_that_ended_well_teaches_how_long_its_model_takes_and_no_other() -> None:
    scheduler = ready(resident=frozenset({"m", "v"}), installed=frozenset({"m", "v"}))
    for model, is_embedding, held_s in (("m", False, 4.0), ("v", True, 1.0)):
        scheduler.push(ticket("opus-1", at=100.0, model=model, is_embedding=is_embedding))
        (call,) = started(scheduler, 100.0)
        scheduler.settle(call.id, 100.0 + held_s)
    assert scheduler.service.of("m") == 4.0
    assert scheduler.service.of("v", is_embedding=True) == 1.0
    for model, is_embedding, estimate_s in (("m", False, 4.0), ("v", True, 1.0)):
        scheduler.push(ticket("opus-1", at=200.0, model=model, is_embedding=is_embedding))
        (call,) = started(scheduler, 200.0)
        assert [lease.estimate_s for lease in scheduler.leases("main")] == [estimate_s]
        scheduler.settle(call.id, 300.0, ended_well=False)
    assert scheduler.service.of("m") == 4.0  # what was cut short says nothing


def test_those_who_shared_a_call_are_charged_by_their_weights() -> None:
    scheduler = ready()
    short, long = ticket("opus-short"), ticket("opus-long")
    scheduler.push(short)
    (call,) = started(scheduler, 0.0)
    scheduler.settle(call.id, 4.0, parts=[(short, 1.0), (long, 3.0)])  # one second, and three
    scheduler.push(ticket("opus-alone"))
    (call,) = started(scheduler, 4.0)
    scheduler.settle(call.id, 6.0)
    for agent in ("opus-long", "opus-alone", "opus-short"):
        scheduler.push(ticket(agent, at=10.0))
    assert [one.agent for one in turns(scheduler, 10.0, 3, each_s=0.0)] == ["opus-short", "opus-alone", "opus-long"]


def test_a_load_that_a_caller_asked_for_leaves_its_model_and_one_that_failed_leaves_nothing() -> None:
    scheduler = ready(resident=frozenset({"a"}), installed=frozenset({"a", "b"}))
    for ended_well, begins in ((True, [Start]), (False, [Load])):
        scheduler.push(ticket("opus-1", model="b", is_load=True))
        (load,) = started(scheduler, 0.0)
        scheduler.settle(load.id, 1.0, ended_well=ended_well)
        scheduler.push(ticket("opus-1", model="b"))
        effects = scheduler.decide(1.0)
        assert [type(effect) for effect in effects] == begins
        for effect in effects:
            if isinstance(effect, Start):
                scheduler.settle(effect.ticket.id, 2.0)


def test_a_load_begins_as_soon_as_what_runs_has_answered_with_a_byte() -> None:
    scheduler = ready(slots=2, resident=frozenset({"a"}), installed=frozenset({"a", "b"}))
    scheduler.push(ticket("opus-1", model="a"))
    (call,) = started(scheduler, 0.0)
    scheduler.want(Load("main", "b", False))
    assert scheduler.decide(0.1) == []
    assert scheduler.next_decision_at(0.1) == 5.0  # byte or not, it is at its runner by then
    assert scheduler.next_decision_at(5.0) == math.inf
    scheduler.arrived("nobody's")
    assert scheduler.decide(0.1) == []
    scheduler.arrived(call.id)
    assert scheduler.next_decision_at(0.1) == math.inf
    assert scheduler.decide(0.1) == [Load("main", "b", False)]


def test_a_class_whose_calls_run_for_long_is_not_below_its_floor() -> None:
    """What runs counts for as long as it has run, or is estimated to."""
    scheduler = ready(slots=2)
    for agent, at in (("opus-1", 100.0), ("sonnet-1", 100.0)):
        scheduler.push(ticket(agent, at=at, priority=1 if agent == "opus-1" else 9))
    first, _ = started(scheduler, 100.0)
    scheduler.settle(first.id, 130.0)
    scheduler.push(ticket("opus-2", at=120.0, priority=1))
    scheduler.push(ticket("sonnet-2", at=100.0, priority=10))
    assert [one.agent for one in started(scheduler, 130.0)] == ["opus-2"]


def test_what_is_asked_of_one_agent_or_of_the_first_few_is_no_more_than_that() -> None:
    scheduler = ready()
    for agent in ("opus-1", "opus-2", "opus-2"):
        scheduler.push(ticket(agent, is_async=True))
    assert (scheduler.queued_async(), scheduler.queued_async("opus-2"), scheduler.queued_async("opus-3")) == (3, 2, 0)
    assert (len(scheduler.order()), len(scheduler.order(2))) == (3, 2)


def test_an_agent_that_waits_is_not_forgotten_however_many_there_are() -> None:
    scheduler = ready(slots=600)
    for number in range(600):
        scheduler.push(ticket(f"guest-{number}"))
    running = started(scheduler, 0.0)
    waits = ticket("opus-1")
    scheduler.push(waits)
    for one in running:
        scheduler.settle(one.id, 1e6)
    assert started(scheduler, 1e6) == [waits]
