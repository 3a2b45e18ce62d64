"""When nobody supervised, and why."""

from __future__ import annotations

from supervisord_ai.core.downtime import Downtime, LastLife, downtime


def test_the_first_supervisor_was_never_down() -> None:
    assert downtime(None, boot_id="b", now_wall=5.0) is None


def test_one_that_was_stopped_said_when_and_why() -> None:
    last = LastLife(90.0, "b", stopped_wall=95.0, stopped_why="its owner said so")
    assert downtime(last, boot_id="c", now_wall=100.0) == Downtime(95.0, 100.0, "its owner said so")


def test_one_that_said_nothing_was_killed_or_the_machine_went_down() -> None:
    killed = downtime(LastLife(90.0, "b"), boot_id="b", now_wall=100.0)
    assert killed is not None
    assert (killed.from_wall, killed.to_wall, "killed or crashed" in killed.why) == (90.0, 100.0, True)
    rebooted = downtime(LastLife(90.0, "b"), boot_id="c", now_wall=100.0)
    assert rebooted is not None
    assert "the machine went down" in rebooted.why


def test_a_clock_that_was_set_back_makes_no_time_negative() -> None:
    for last in (LastLife(90.0, "b"), LastLife(90.0, "b", 90.0, "x")):
        found = downtime(last, boot_id="b", now_wall=10.0)
        assert found is not None
        assert found.from_wall == found.to_wall
