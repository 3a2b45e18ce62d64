"""When systemd's watchdog is fed."""

from __future__ import annotations

from supervisord_ai.core.progress import Progress, Signs


def test_the_first_look_is_progress() -> None:
    assert Progress().stuck(Signs(0, 5, 0)) == ()


def test_a_dispatcher_that_took_no_turn_is_stuck_until_it_takes_one() -> None:
    progress = Progress()
    progress.stuck(Signs(0, 0, 1))
    assert progress.stuck(Signs(0, 0, 1)) == ("the dispatcher",)
    assert progress.stuck(Signs(0, 0, 2)) == ()


def test_a_journal_that_has_nothing_to_write_is_not_stuck() -> None:
    progress = Progress()
    progress.stuck(Signs(7, 0, 1))
    assert progress.stuck(Signs(7, 0, 2)) == ()
    assert progress.stuck(Signs(7, 3, 3)) == ()  # they came since the last look


def test_a_journal_that_writes_nothing_of_what_waits_is_stuck_and_a_failure_is_no_hang() -> None:
    progress = Progress()
    progress.stuck(Signs(7, 3, 1))
    assert progress.stuck(Signs(7, 4, 1)) == ("the journal", "the dispatcher")
    assert progress.stuck(Signs(8, 4, 2)) == ()
