"""The indexes of the waiting tickets, against the plain list they stand for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisord_ai.core.waiting import Entry, Ticket, Waiting

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
