"""The indexes of the waiting tickets, against the plain list they stand for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisord_ai.core.waiting import Entry, Mergeable, Ticket, Waiting

LEVEL_S = 15.0


def ticket(name: str, agent: str = "opus-1", priority: int = 5, at: float = 0.0, **more: Any) -> Ticket:
    return Ticket(name, agent, agent.partition("-")[0], priority, at, **({"start_by": 1e9} | more))


def every_model(_: str | None) -> bool:
    return True


def own_key(entry: Entry) -> float:
    return entry[0]


def test_one_id_waits_once() -> None:
    waiting = Waiting(LEVEL_S)
    waiting.push(ticket("a"))
    with pytest.raises(ValueError, match="already waiting"):
        waiting.push(ticket("a"))


def test_a_ticket_that_is_put_back_is_not_bound_by_the_times_it_had() -> None:
    waiting = Waiting(LEVEL_S)
    waiting.push(ticket("a", start_by=5.0))
    waiting.remove("a")
    waiting.push(ticket("a", start_by=50.0))
    assert waiting.advance(10.0) == []
    assert waiting.next_time() == 50.0


def test_a_time_that_has_come_is_not_the_next_time() -> None:
    """Otherwise who waits for it without a free slot to offer would be woken without end."""
    waiting = Waiting(LEVEL_S)
    waiting.push(ticket("a", not_before=3.0, start_by=math.inf))
    waiting.advance(3.0)
    assert waiting.next_time() == math.inf


def test_tickets_that_left_do_not_pile_up() -> None:
    waiting = Waiting(LEVEL_S)
    for number in range(10_000):
        waiting.push(ticket(str(number), not_before=1e6))
        waiting.remove(str(number))
    assert len(waiting._start_by) < 100
    assert len(waiting._not_before) < 100
    assert (waiting._by_agent, waiting._startable) == ({}, {})


class Indexes(RuleBasedStateMachine):
    """Whatever comes and goes, the indexes say what a search through a plain list would."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting(LEVEL_S)
        self.plain: list[tuple[float, int, Ticket]] = []
        self.pushed = 0
        self.now = 0.0

    @rule(
        agent=st.integers(0, 3),
        priority=st.integers(1, 10),
        age_s=st.floats(-5, 30),
        model=st.sampled_from(["a", "b", None]),
        not_before_s=st.sampled_from([-math.inf, -1.0, 0.0, 4.0]),
        start_by_s=st.sampled_from([3.0, 50.0, math.inf]),
    )
    def push(
        self, *, agent: int, priority: int, age_s: float, model: str | None, not_before_s: float, start_by_s: float
    ) -> None:
        self.pushed += 1
        made = ticket(
            str(self.pushed),
            f"opus-{agent}",
            priority,
            self.now - age_s,
            model=model,
            not_before=self.now + not_before_s,
            start_by=self.now + start_by_s,
        )
        self.waiting.push(made)
        self.plain.append((made.arrived_at + priority * LEVEL_S, self.pushed, made))

    @rule(number=st.integers(1, 30))
    def remove(self, number: int) -> None:
        found = self.waiting.remove(str(number))
        assert (found is not None) == any(entry[2].id == str(number) for entry in self.plain)
        self.plain = [entry for entry in self.plain if entry[2].id != str(number)]

    @rule(passes_s=st.floats(0, 10))
    def advance(self, passes_s: float) -> None:
        self.now += passes_s
        expired = {found.id for found in self.waiting.advance(self.now)}
        assert expired == {entry[2].id for entry in self.plain if entry[2].start_by <= self.now}
        self.plain = [entry for entry in self.plain if entry[2].id not in expired]
        times = [time for entry in self.plain for time in (entry[2].not_before, entry[2].start_by) if time > self.now]
        assert self.waiting.next_time() == min(times, default=math.inf)
        for can_take in (every_model, lambda model: model != "a"):
            heads: dict[str, Entry] = {}
            for entry in sorted(self.plain, key=lambda entry: entry[:2]):
                if entry[2].not_before <= self.now and can_take(entry[2].model):
                    heads.setdefault(entry[2].agent, entry)
            assert sorted(self.waiting.heads(can_take)) == sorted(heads.values())

    @invariant()
    def all_wait_in_order(self) -> None:
        order = self.waiting.order(own_key)
        assert {found.id for found in order} == {entry[2].id for entry in self.plain}
        assert len(self.waiting) == len(order)
        assert [self.waiting.ahead(found.id, own_key) for found in order] == list(range(len(order)))
        for agent in {found.agent for found in order}:
            mine = sorted(entry for entry in self.plain if entry[2].agent == agent)
            assert [found for found in order if found.agent == agent] == [entry[2] for entry in mine]
            assert self.waiting.count_of(agent) == len(mine)


TestIndexes = Indexes.TestCase
TestIndexes.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_what_is_told_of_those_who_wait() -> None:
    waiting = Waiting(LEVEL_S)
    for one in (ticket("a", model="m"), ticket("b", "opus-2", 3, 7.0, model="m"), ticket("c", at=2.0, is_async=True)):
        waiting.push(one)
    assert (len(waiting), "a" in waiting, "z" in waiting, waiting.remove("z")) == (3, True, False, None)
    assert sorted(one.id for one in waiting.on_connections()) == ["a", "b"]
    assert waiting.models() == {"m": 2, None: 1}
    assert waiting.levels() == {3: (1, 7.0), 5: (2, 0.0)}
    assert (waiting.count_async(), waiting.count_async("opus-1"), waiting.count_async("opus-2")) == (1, 1, 0)
    waiting.remove("c")
    assert waiting.count_async() == 0


def filled(*tickets: Ticket) -> Waiting:
    waiting = Waiting(LEVEL_S)
    for one in tickets:
        waiting.push(one)
    return waiting


def ids(tickets: list[Ticket]) -> list[str]:
    return [one.id for one in tickets]


def test_a_ticket_is_found_by_its_id_while_it_waits() -> None:
    a = ticket("a")
    waiting = filled(a, ticket("b"))
    assert (waiting.get("a"), waiting.get("z")) == (a, None)


def test_one_that_may_start_at_once_may_start_before_any_time_has_passed() -> None:
    waiting = filled(ticket("a", start_by=math.inf))
    assert [entry[2].id for entry in waiting.heads(every_model)] == ["a"]
    assert (waiting._not_before, waiting._start_by) == ([], []), "no time concerns it"


def test_at_its_last_moment_one_has_expired() -> None:
    waiting = filled(ticket("a", start_by=5.0))
    assert ids(waiting.advance(4.9)) == []
    assert ids(waiting.advance(5.0)) == ["a"]


def test_each_asynchronous_one_of_an_agent_is_counted() -> None:
    waiting = filled(*(ticket(name, is_async=True) for name in "abc"))
    waiting.remove("b")
    assert waiting.count_async("opus-1") == 2


def test_twins_are_those_who_share_and_not_those_who_merge_or_share_nothing() -> None:
    a, b, c = (ticket(name, f"agent-{name}", shares=b"k") for name in "abc")
    others = (ticket("d", shares=b"other"), ticket("e"), ticket("f", merges=Mergeable(b"k", 1, 1)))
    waiting = filled(a, b, *others, c)
    assert ids(waiting.twins(b)) == ["a", "c"]
    assert waiting.twins(others[0]) == waiting.twins(others[1]) == []
    assert ids(waiting.twins(ticket("new", shares=b"k"))) == ["a", "b", "c"], "one that does not wait has twins too"
    assert waiting.twins(ticket("new", shares=b"nobody's")) == []
    waiting.remove("a")
    assert ids(waiting.twins(b)) == ["c"]


def test_those_whose_texts_may_go_into_one_list_have_one_key() -> None:
    a, b, c = (ticket(name, merges=Mergeable(b"k", 1, number)) for number, name in enumerate("abc"))
    others = (ticket("d", merges=Mergeable(b"other", 1, 1)), ticket("e"), ticket("f", shares=b"k"))
    waiting = filled(a, b, *others, c)
    assert ids(waiting.mergeable(b)) == ["a", "c"]
    assert waiting.mergeable(others[0]) == waiting.mergeable(others[1]) == []
    assert ids(waiting.mergeable(ticket("new", merges=Mergeable(b"k", 9, 9)))) == ["a", "b", "c"]
    assert waiting.mergeable(ticket("new", merges=Mergeable(b"nobody's", 1, 1))) == []


def test_nothing_is_left_of_those_who_shared() -> None:
    waiting = filled(*(ticket(name, shares=b"k", merges=Mergeable(b"k", 1, 1)) for name in "ab"))
    for name in "ab":
        waiting.remove(name)
    assert waiting._alike == {}


def test_those_who_would_enter_stand_in_line_behind_their_equals_and_do_not_wait() -> None:
    a, b = ticket("a"), ticket("b", "opus-2")
    waiting = filled(a, b)
    equal, urgent, stranger = ticket("c"), ticket("d", priority=1), ticket("e", "guest", at=3.0)
    assert dict(waiting.lines([equal, urgent, stranger])) == {
        "opus-1": [(15.0, 4, urgent), (75.0, 1, a), (75.0, 3, equal)],
        "opus-2": [(75.0, 2, b)],
        "guest": [(78.0, 5, stranger)],
    }
    assert dict(waiting.lines()) == {"opus-1": [(75.0, 1, a)], "opus-2": [(75.0, 2, b)]}


def test_the_first_few_are_no_more_than_that() -> None:
    waiting = filled(ticket("a"), ticket("b", "opus-2", at=1.0), ticket("c", "opus-3", at=2.0))
    assert ids(waiting.order(own_key, 2)) == ["a", "b"]


@pytest.mark.parametrize(("held_at", "other_at"), [(0.0, 9.0), (9.0, 0.0)])
def test_one_that_leaves_before_its_time_takes_nobody_along(held_at: float, other_at: float) -> None:
    waiting = filled(ticket("held", at=held_at, not_before=50.0), ticket("other", at=other_at))
    waiting.remove("held")
    assert [entry[2].id for entry in waiting.heads(every_model)] == ["other"]
