"""What becomes of those whom an earlier supervisor left: the table, a line each."""

from __future__ import annotations

import itertools

import pytest

from supervisord_ai.core.adoption import (
    Adopt,
    Decision,
    EndStrays,
    Found,
    LastRun,
    LostWhileDown,
    NothingLeft,
    StopUnknown,
    decide,
    is_standing,
)
from supervisord_ai.core.agent_state import AgentState, is_alive

RAN = LastRun(has_ended=False)
HAD_ENDED = LastRun(has_ended=True)
NEVER_WRITTEN = LastRun(has_ended=False, is_known=False)
NOBODY = Found()
ALIVE = Found(members=3, main_lives=True, main_is_inside=True)
ORPHANS = Found(members=2)


@pytest.mark.parametrize(
    ("last", "found", "decision"),
    [
        (RAN, ALIVE, Adopt()),
        (LastRun(has_ended=False, intent="owner"), ALIVE, Adopt(ending="owner")),
        (LastRun(has_ended=False, intent="shutdown"), ALIVE, EndStrays("it was being ended: shutdown")),
        (RAN, NOBODY, LostWhileDown("nothing of it was running any more")),
        (LastRun(has_ended=False, is_this_boot=False), NOBODY, LostWhileDown("the machine was started anew")),
        (NEVER_WRITTEN, NOBODY, LostWhileDown("it had not been started yet")),
        (RAN, ORPHANS, EndStrays("its main process had ended")),
        (NEVER_WRITTEN, ORPHANS, EndStrays("who they are was never written down")),
        (RAN, Found(main_lives=True), EndStrays("its main process has left its group")),
        (RAN, Found(members=2, main_lives=True), EndStrays("its main process has left its group")),
        (HAD_ENDED, NOBODY, NothingLeft()),
        (HAD_ENDED, ORPHANS, EndStrays("they outlived the end of its last generation")),
        (None, NOBODY, NothingLeft()),
        (None, ORPHANS, EndStrays("nobody wrote down who they are")),
    ],
)
def test_an_agent_of_the_roster(last: LastRun | None, found: Found, decision: Decision) -> None:
    assert decide(last, found, is_in_roster=True, can_outlive_us=True) == decision


@pytest.mark.parametrize("last", [RAN, HAD_ENDED, NEVER_WRITTEN, None])
@pytest.mark.parametrize("found", [ALIVE, ORPHANS, Found(main_lives=True)])
def test_who_is_not_of_the_roster_is_ended(last: LastRun | None, found: Found) -> None:
    assert decide(last, found, is_in_roster=False, can_outlive_us=True) == StopUnknown()


def test_without_a_cage_of_its_own_nobody_is_taken_over() -> None:
    decision = decide(RAN, ALIVE, is_in_roster=True, can_outlive_us=False)
    assert decision == EndStrays("without a group of its own it cannot be taken over")


def test_nobody_is_taken_over_unless_everything_speaks_for_it() -> None:
    """Whoever is adopted is the very process that was started, in its group; and whoever is alive is dealt with."""
    yes_no = (False, True)
    for ended, known, boot, lives, inside, roster, cages in itertools.product(yes_no, repeat=7):
        for members in (0, 1, 2):
            last = LastRun(ended, is_known=known, is_this_boot=boot)
            found = Found(members, main_lives=lives, main_is_inside=inside)
            match decide(last, found, is_in_roster=roster, can_outlive_us=cages):
                case Adopt():
                    assert all((lives, inside, roster, cages, not ended))
                case NothingLeft() | LostWhileDown():
                    assert (lives, members) == (False, 0)
                case EndStrays() | StopUnknown():
                    assert lives or members


def test_who_rests_goes_on_resting_under_the_next_supervisor_and_who_ran_or_never_began_does_not() -> None:
    standing = {state for state in AgentState if is_standing(state)}
    assert standing == {state for state in AgentState if not is_alive(state)} - {AgentState.PENDING}
