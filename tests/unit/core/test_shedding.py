"""Who ends when memory must come back, and who comes back first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.shedding import AT_ONCE, Candidate, ShedList, choose, in_order

MB = 10**6


def agent(name: str, *, priority: int = 5, critical: bool = False, idle_s: float = 0.0, mb: int | None = 100) -> Candidate:
    return Candidate(name, priority, critical, idle_s, None if mb is None else mb * MB)


def test_the_lowest_priority_goes_first_and_the_idlest_of_it() -> None:
    fleet = [agent("a", idle_s=10), agent("b", idle_s=300), agent("batch", priority=9), agent("c", idle_s=20)]
    assert [one.name for one in in_order(fleet)] == ["batch", "b", "c", "a"]


def test_a_critical_agent_is_never_shed() -> None:
    assert choose([agent("opus", priority=10, critical=True, idle_s=9999)], 10**12) == []


def test_as_many_go_as_give_back_what_is_needed() -> None:
    fleet = [agent(str(n), idle_s=n) for n in range(30)]
    assert [one.name for one in choose(fleet, 250 * MB)] == ["29", "28", "27"]
    assert [one.name for one in choose(fleet, 1)] == ["29"]
    assert [one.name for one in choose(fleet, 100 * MB)] == ["29"]
    assert [one.name for one in choose(fleet, 100 * MB + 1)] == ["29", "28"]
    assert len(choose(fleet, 10**12)) == AT_ONCE


def test_one_whose_memory_nobody_knows_counts_as_nothing() -> None:
    for need_bytes in (1, 50 * MB):
        assert len(choose([agent("a", mb=None, idle_s=2), agent("b", idle_s=1)], need_bytes)) == 2
    gone = ShedList()
    gone.add([agent("a", mb=None)])
    assert gone.ending_bytes({"a": True}) == 0
    assert gone.next_back(0, {"a": False}) == "a"


def test_among_equals_the_last_of_the_roster_goes_first() -> None:
    fleet = [Candidate(name, 5, False, 0.0, MB, place) for place, name in enumerate(["s-01", "s-02", "s-03"])]
    assert [one.name for one in in_order(fleet)] == ["s-03", "s-02", "s-01"]


def test_who_went_last_comes_back_first_where_it_fits() -> None:
    gone = ShedList()
    gone.add([agent("batch", mb=10), agent("sonnet", mb=200)])
    alive = {"batch": False, "sonnet": False}
    assert gone.next_back(199 * MB, alive) is None, "the most important one waits for its room, and is not overtaken"
    assert gone.next_back(200 * MB, alive) == "sonnet"
    assert gone.next_back(200 * MB, alive) == "batch"
    assert gone.next_back(200 * MB, alive) is None


def test_one_that_has_not_ended_yet_does_not_come_back_and_is_reckoned_with() -> None:
    gone = ShedList()
    gone.add([agent("a", mb=10), agent("b", mb=20)])
    assert gone.ending_bytes({"a": False, "b": True}) == 20 * MB
    assert gone.next_back(10**12, {"a": False, "b": True}) == "a"


def test_one_of_whom_its_owner_has_spoken_is_not_brought_back() -> None:
    gone = ShedList()
    gone.add([agent("a"), agent("b")])
    gone.forget("b")
    gone.forget("who")
    assert gone.names == ("a",)


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=st.uuids().map(str),
        priority=st.integers(1, 10),
        is_critical=st.booleans(),
        idle_s=st.sampled_from([0.0, 1.0, 5.0, 900.0]),
        bytes=st.one_of(st.none(), st.integers(0, 300 * MB)),
        place=st.integers(0, 200),
    ),
    max_size=10,
)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(CANDIDATES, st.lists(st.tuples(st.integers(1, 10**9), st.booleans()), max_size=12))
def test_in_every_history_the_order_is_kept_and_critical_agents_stay(
    fleet: list[Candidate], history: list[tuple[int, bool]]
) -> None:
    """Sheds and returns, drawn at random, each of whom has ended at once."""
    up = {one.name: one for one in fleet}
    gone = ShedList()
    for need_bytes, is_short in history:
        if is_short:
            chosen = choose(up.values(), need_bytes)
            left = [one for one in up.values() if one not in chosen and not one.is_critical]
            for one in chosen:
                assert not one.is_critical
                assert all((one.priority, one.idle_s) >= (other.priority, other.idle_s) for other in left)
                del up[one.name]
            assert chosen or not left
            gone.add(chosen)
        else:
            last = gone.names[-1:]
            back = gone.next_back(need_bytes, {})
            if back is not None:
                assert (back,) == last
                up[back] = next(one for one in fleet if one.name == back)
        assert not set(gone.names) & set(up)
        assert {one.name for one in fleet} == set(up) | set(gone.names)
