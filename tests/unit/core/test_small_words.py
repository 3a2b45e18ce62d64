"""Short answers that other rooms rely on: yes or no, or one figure."""

from __future__ import annotations

import pytest

from supervisord_ai.core.alerts import Notify
from supervisord_ai.core.estimate import FIRST_GUESS_S, ServiceTimes
from supervisord_ai.core.shedding import ShedList
from supervisord_ai.core.verdict import Blame, blame


@pytest.mark.parametrize(
    ("word", "whose"),
    [
        ("finished", Blame.NOBODY),
        ("stopped:watchdog", Blame.ITSELF),  # it broke its promise
        ("stopped:owner", Blame.OURS),
        ("lost-while-down", Blame.OURS),
        ("oom:vm", Blame.MACHINE),
        ("oom:fleet", Blame.MACHINE),
        ("oom:systemd-oomd", Blame.MACHINE),
        ("oom:own-cap", Blame.ITSELF),
        ("exit:1", Blame.ITSELF),
    ],
)
def test_whose_doing_an_end_was(word: str, whose: Blame) -> None:
    assert blame(word) is whose


def test_nobody_is_told_where_neither_command_nor_url_is_given() -> None:
    assert Notify().is_nobody
    assert not Notify(command=("true",)).is_nobody
    assert not Notify(url="https://example").is_nobody


def test_before_any_call_has_ended_a_wait_is_a_guess_and_then_the_mean_of_all() -> None:
    times = ServiceTimes()
    assert (times.longest_s, times.wait_s(4, 2)) == (FIRST_GUESS_S, 2 * FIRST_GUESS_S)
    times.note("fast", 1.0)
    assert (times.longest_s, times.wait_s(4, 2), times.wait_s(3, 0)) == (1.0, 2.0, 3.0)
    times.note("slow", 9.0)
    assert times.longest_s == 9.0


def test_the_list_of_those_who_were_shed_knows_how_many_they_are() -> None:
    assert (len(ShedList()), len(ShedList({"a": 1, "b": 2}))) == (0, 2)
