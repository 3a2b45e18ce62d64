"""How outdated agents come to their new specs, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.policies import RolloutPolicy
from supervisord_ai.core.rollout import (
    Deed,
    End,
    Entry,
    Heading,
    Over,
    Record,
    Rollout,
    State,
    Step,
    TakeBack,
    TakeOn,
    WaitUntil,
    end_of,
    taken_up,
)

POLICY = RolloutPolicy(group_size=2, min_ready_s=10.0, max_failures=1)


def of(*names: str, policy: RolloutPolicy = POLICY, may_be_silent: bool = False) -> Rollout:
    entries = tuple(Entry(name, "old", "new", may_be_silent=may_be_silent) for name in names)
    return Rollout(policy, Record(entries), ready_within_s=60.0)


def state(rollout: Rollout) -> State:
    return rollout.state  # asked anew: a type checker takes a property that it has seen for a fact


def begun(rollout: Rollout, now: float) -> Deed:
    """Ask what is next, and begin it."""
    deed = rollout.next(now)
    if isinstance(deed, TakeOn | TakeBack):
        for name in deed.names:
            rollout.restarted(name, now)
    return deed


def proved(rollout: Rollout, names: Iterable[str], now: float) -> None:
    for name in names:
        rollout.ready(name, now)


def test_the_next_group_comes_when_this_one_was_ready_for_its_time() -> None:
    rollout = of("a", "b", "c")
    assert begun(rollout, 0.0) == TakeOn(("a", "b"))
    assert rollout.next(0.0) == WaitUntil(60.0)
    rollout.ready("a", 2.0)
    assert rollout.next(3.0) == WaitUntil(12.0)
    assert rollout.next(12.0) == WaitUntil(60.0)
    assert rollout.step("a") is Step.ROLLED
    rollout.ready("b", 20.0)
    assert rollout.next(29.9) == WaitUntil(30.0)
    assert begun(rollout, 30.0) == TakeOn(("c",))
    rollout.ready("c", 31.0)
    assert rollout.next(41.0) == Over()
    assert state(rollout) is State.DONE


def test_one_that_fails_goes_back_alone_and_the_others_go_on() -> None:
    rollout = of("a", "b", "c")
    begun(rollout, 0.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    assert begun(rollout, 1.0) == TakeBack(("a",))
    proved(rollout, ("a", "b"), 2.0)
    assert rollout.step("a") is Step.RETURNED
    assert begun(rollout, 12.0) == TakeOn(("c",))
    rollout.ready("c", 13.0)
    assert rollout.next(23.0) == Over()
    assert (state(rollout), rollout.failures) == (State.DONE, 1)


def test_one_failure_too_many_takes_everyone_back_in_groups() -> None:
    rollout = of("a", "b", "c", "d", "e")
    begun(rollout, 0.0)
    proved(rollout, ("a", "b"), 0.0)
    assert begun(rollout, 10.0) == TakeOn(("c", "d"))
    rollout.ended("c", End.FAILED, 11.0, "exit:1")
    assert begun(rollout, 11.0) == TakeBack(("c",))
    rollout.ended("d", End.FAILED, 12.0, "exit:2")
    assert begun(rollout, 12.0) == TakeBack(("d",))  # c is in hand still: no room for another
    assert state(rollout) is State.ROLLING_BACK
    rollout.ready("c", 13.0)
    assert begun(rollout, 13.0) == TakeBack(("a",))
    proved(rollout, ("a", "d"), 14.0)
    assert begun(rollout, 14.0) == TakeBack(("b",))
    rollout.ready("b", 15.0)
    assert rollout.next(15.0) == Over()
    assert state(rollout) is State.ROLLED_BACK
    assert rollout.step("e") is Step.WAITING
    assert rollout.counts() == {Step.RETURNED: 4, Step.WAITING: 1}


def test_those_who_are_not_proved_go_back_at_once_when_the_others_failed() -> None:
    rollout = of("a", "b", policy=RolloutPolicy(group_size=2, max_failures=0))
    begun(rollout, 0.0)
    rollout.ready("b", 1.0)
    rollout.ended("a", End.FAILED, 2.0, "exit:1")
    assert begun(rollout, 2.0) == TakeBack(("a", "b"))


def test_who_is_not_ready_in_time_has_failed_and_who_waits_for_a_request_has_not() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    assert begun(rollout, 60.0) == TakeBack(("a", "b"))
    assert state(rollout) is State.ROLLING_BACK
    quiet = of("a", "b", may_be_silent=True)
    begun(quiet, 0.0)
    assert quiet.next(60.0) == Over()
    assert state(quiet) is State.DONE


def test_an_end_that_is_nobodys_fault_starts_the_proof_again() -> None:
    rollout = of("a")
    begun(rollout, 0.0)
    rollout.ready("a", 1.0)
    rollout.ended("a", End.EXCUSED, 9.0, "oom:fleet")
    assert rollout.next(12.0) == WaitUntil(69.0)
    rollout.ready("a", 20.0)
    assert rollout.next(30.0) == Over()


def test_what_an_agent_did_before_its_restart_began_says_nothing() -> None:
    rollout = of("a")
    assert rollout.next(0.0) == TakeOn(("a",))
    rollout.ended("a", End.FAILED, 1.0, "exit:1")  # while its own calls were waited for
    rollout.ready("a", 1.0)
    assert rollout.next(100.0) == WaitUntil(math.inf)
    rollout.restarted("a", 100.0)
    assert rollout.next(101.0) == WaitUntil(160.0)


def test_a_pause_takes_nobody_further_and_still_puts_back_who_fails() -> None:
    rollout = of("a", "b", "c")
    begun(rollout, 0.0)
    rollout.pause("asked")
    rollout.ready("b", 1.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    assert begun(rollout, 1.0) == TakeBack(("a",))
    rollout.ready("a", 2.0)
    assert rollout.next(50.0) == WaitUntil(math.inf)
    assert state(rollout) is State.PAUSED
    rollout.resume()
    assert begun(rollout, 51.0) == TakeOn(("c",))


def test_one_that_does_not_come_back_either_keeps_its_place_in_the_group() -> None:
    rollout = of("a", "b", "c", "d")
    begun(rollout, 0.0)
    proved(rollout, ("b",), 0.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    begun(rollout, 1.0)
    rollout.ended("a", End.FAILED, 2.0, "exit:1")
    assert rollout.step("a") is Step.DOWN
    assert begun(rollout, 10.0) == TakeOn(("c",))  # one less than a group
    rollout.ready("a", 11.0)
    rollout.ready("c", 12.0)
    assert rollout.step("a") is Step.RETURNED
    assert begun(rollout, 22.0) == TakeOn(("d",))


def test_pressure_holds_up_going_on_and_never_going_back() -> None:
    rollout = of("a", "b", "c")
    begun(rollout, 0.0)
    proved(rollout, ("a", "b"), 0.0)
    rollout.is_held = True
    assert rollout.next(10.0) == WaitUntil(math.inf)
    rollout.abort("asked")
    assert begun(rollout, 11.0) == TakeBack(("a", "b"))


def test_an_agent_that_its_owner_stops_is_waited_for_no_more() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    rollout.ended("a", End.STOPPED, 1.0, "stopped:owner")
    rollout.leave(("b", "nobody"))
    assert rollout.next(1.0) == Over()


def test_a_spec_that_changes_meanwhile_is_what_those_who_wait_are_rolled_to() -> None:
    rollout = of("a", "b", "c", policy=RolloutPolicy(group_size=1))
    begun(rollout, 0.0)
    for name, after in (("a", "newer"), ("b", "newer"), ("c", "old")):
        rollout.retarget(name, after)
    assert [one.after for one in rollout.written().entries] == ["new", "newer", "old"]
    assert rollout.step("c") is Step.LEFT


@pytest.mark.parametrize(
    ("step", "made_of", "expected"),
    [
        (Step.WAITING, "old", Step.WAITING),
        (Step.ROLLING, "old", Step.WAITING),
        (Step.ROLLING, "new", Step.ROLLING),
        (Step.ROLLED, "new", Step.ROLLED),
        (Step.RETURNING, "new", Step.ROLLING),
        (Step.RETURNING, "old", Step.RETURNING),
        (Step.WAITING, None, Step.LEFT),
    ],
)
def test_another_supervisor_goes_on_where_the_agents_are_and_asks_first(step: Step, made_of: str | None, expected: Step) -> None:
    record = Record((Entry("a", "old", "new", step), Entry("b", "old", "new")))
    again = taken_up(record, {"b": "old"} | ({} if made_of is None else {"a": made_of}))
    assert again.entries[0].step is expected
    assert again.is_paused
    assert "anew" in again.why
    rollout = Rollout(POLICY, again)
    assert state(rollout) is State.PAUSED


def test_one_that_was_over_stays_over() -> None:
    record = Record((Entry("a", "old", "new", Step.RETURNED, "exit:1"),), Heading.BACK, why="1 failed")
    assert taken_up(record, {"a": "old"}) == record


# --- any history --------------------------------------------------------------------------------------------------------

ENDS = {"failed": End.FAILED, "excused": End.EXCUSED, "finished": End.FINISHED, "stopped": End.STOPPED}
HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from([*ENDS, "ready", "pause", "resume", "abort", "held", "crash", "wait"]),
        st.integers(0, 6),
        st.floats(0, 40),
    ),
    max_size=25,
)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 3), HAPPENINGS)
def test_in_no_history_are_more_than_a_group_down_at_once_and_each_one_ends(
    agents: int, group_size: int, max_failures: int, happenings: list[tuple[str, int, float]]
) -> None:
    policy = RolloutPolicy(group_size, 10.0, max_failures)
    names = [f"a{n}" for n in range(agents)]
    rollout = Rollout(policy, Record(tuple(Entry(name, "old", "new") for name in names)), ready_within_s=60.0)
    made_of = dict.fromkeys(names, "old")
    down: set[str] = set()
    now = 0.0

    def run() -> None:
        while not isinstance(deed := rollout.next(now), WaitUntil | Over):
            for name in deed.names:
                made_of[name] = "new" if isinstance(deed, TakeOn) else "old"
                down.add(name)
                rollout.restarted(name, now)
            assert len(down) <= group_size
        assert down <= set(rollout.in_hand)
        assert len(rollout.in_hand) <= group_size

    run()
    for what, which, pause_s in happenings:
        now += pause_s
        name = names[which % agents]
        if what == "ready":
            down.discard(name)
            rollout.ready(name, now)
        elif what in ENDS:
            rollout.ended(name, ENDS[what], now, what)
            if what in {"finished", "stopped"}:  # nobody waits for it any more
                down.discard(name)
        elif what == "pause":
            rollout.pause("asked")
        elif what == "resume":
            rollout.resume()
        elif what == "abort" and not rollout.is_over:
            rollout.abort("asked")
        elif what == "held":
            rollout.is_held = not rollout.is_held
        elif what == "crash":
            rollout = Rollout(policy, taken_up(rollout.written(), made_of), ready_within_s=60.0)
            for one in rollout.in_hand:
                rollout.restarted(one, now)
        run()
    rollout.is_held = False
    rollout.resume()
    for _ in range(6 * agents + 6):  # whoever is waited for comes: it ends
        now += 11.0
        for name in tuple(down):
            down.discard(name)
            rollout.ready(name, now)
        run()
    assert rollout.is_over
    for name in names:
        if state(rollout) is State.ROLLED_BACK and rollout.step(name) in {Step.WAITING, Step.RETURNED}:
            assert made_of[name] == "old"
        if state(rollout) is State.DONE and rollout.step(name) is Step.ROLLED:
            assert made_of[name] == "new"


@pytest.mark.parametrize(
    ("word", "is_after_gateway", "end"),
    [
        ("finished", False, End.FINISHED),
        ("stopped:owner", False, End.STOPPED),
        ("stopped:rollout", False, End.EXCUSED),
        ("lost-while-down", False, End.EXCUSED),
        ("oom:fleet", False, End.EXCUSED),
        ("exit:1", True, End.EXCUSED),
        ("exit:1", False, End.FAILED),
        ("oom:own-cap", False, End.FAILED),
    ],
)
def test_what_an_end_says_of_a_spec(word: str, is_after_gateway: bool, end: End) -> None:
    assert end_of(word, is_after_gateway=is_after_gateway) is end


def test_ready_said_twice_counts_from_the_first_time() -> None:
    rollout = of("a")
    begun(rollout, 0.0)
    rollout.ready("a", 2.0)
    rollout.ready("a", 9.0)
    rollout.ready("nobody", 9.0)
    assert rollout.next(3.0) == WaitUntil(12.0)


def test_who_asks_for_time_is_waited_for_longer() -> None:
    rollout = of("a")
    begun(rollout, 0.0)
    rollout.extended("a", 100.0)
    rollout.extended("nobody", 100.0)
    assert rollout.next(61.0) == WaitUntil(100.0)


def test_going_on_after_a_pause_on_the_way_back_keeps_the_reason_for_going_back() -> None:
    rollout = of("a", "b", "c")
    begun(rollout, 0.0)
    rollout.abort("its owner")
    rollout.resume()
    assert (rollout.written().heading, rollout.written().why) == (Heading.BACK, "its owner")
    forward = of("a")
    forward.pause("its owner")
    forward.resume()
    assert forward.written().why == ""


def test_one_that_does_its_work_and_ends_is_proved_by_that() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    rollout.ended("a", End.FINISHED, 1.0, "finished")
    assert (rollout.step("a"), rollout.step("b")) == (Step.ROLLED, Step.ROLLING)


def test_an_end_of_somebody_else_says_nothing() -> None:
    rollout = of("a")
    begun(rollout, 0.0)
    rollout.ended("stranger", End.FAILED, 1.0, "exit:1")
    rollout.ready("stranger", 1.0)
    rollout.extended("stranger", 100.0)
    assert (rollout.failures, rollout.step("stranger"), rollout.next(1.0)) == (0, None, WaitUntil(60.0))


def test_who_was_taken_and_has_not_begun_is_known() -> None:
    rollout = of("a", "b")
    assert rollout.next(0.0) == TakeOn(("a", "b"))
    assert [name for name, _ in rollout.unbegun] == ["a", "b"]
    rollout.restarted("a", 0.0)
    assert [*rollout.unbegun] == [("b", Step.ROLLING)]


def test_one_that_is_not_ready_in_time_on_the_way_back_either_is_given_up() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    assert begun(rollout, 1.0) == TakeBack(("a",))
    proved(rollout, ("b",), 2.0)
    rollout.next(61.0)
    assert rollout.step("a") is Step.DOWN


def test_one_that_is_down_and_fails_again_is_as_down_as_before() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    assert begun(rollout, 1.0) == TakeBack(("a",))
    for at in (2.0, 3.0):
        rollout.ended("a", End.FAILED, at, "exit:1")
        assert rollout.step("a") is Step.DOWN
    rollout.ready("a", 4.0)  # it came after all
    assert rollout.step("a") is Step.RETURNED


def test_one_that_failed_is_not_proved_by_the_time_that_passed_before_anybody_asked() -> None:
    rollout = of("a", "b")
    begun(rollout, 0.0)
    rollout.ready("a", 2.0)
    rollout.ended("a", End.FAILED, 3.0, "exit:1")
    assert rollout.next(50.0) == TakeBack(("a",))
    assert [one.why for one in rollout.written().entries] == ["exit:1", ""]


def test_beside_one_that_is_down_nobody_is_taken_in_groups_of_one() -> None:
    rollout = of("a", "b", policy=RolloutPolicy(group_size=1, max_failures=1))
    begun(rollout, 0.0)
    rollout.ended("a", End.FAILED, 1.0, "exit:1")
    assert begun(rollout, 1.0) == TakeBack(("a",))
    rollout.ended("a", End.FAILED, 2.0, "exit:1")
    assert rollout.next(2.0) == WaitUntil(math.inf)
    assert (rollout.step("a"), rollout.step("b")) == (Step.DOWN, Step.WAITING)


def test_that_nobody_can_demand_its_first_request_is_known_whatever_becomes_of_a_rollout() -> None:
    rollout = of("a", "b", may_be_silent=True, policy=RolloutPolicy(group_size=1))
    rollout.retarget("b", "newer")
    again = taken_up(rollout.written(), {"a": "old", "b": "old"})
    for record in (rollout.written(), again):
        assert [one.may_be_silent for one in record.entries] == [True, True]


def test_a_rollout_on_its_way_back_is_so_under_another_supervisor_too() -> None:
    record = Record((Entry("a", "old", "new", Step.ROLLED), Entry("b", "old", "new", Step.RETURNING)), Heading.BACK)
    again = taken_up(record, {"a": "new", "b": "old"})
    assert (again.heading, again.is_paused) == (Heading.BACK, True)
