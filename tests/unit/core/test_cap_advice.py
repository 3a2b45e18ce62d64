"""Caps from peaks."""

from __future__ import annotations

import dataclasses

import pytest

from supervisord_ai.core.cap_advice import STEP_BYTES, Highs, Peak, advise, suggested
from supervisord_ai.core.roster import MB, AgentSpec, ClassPolicy

OPUS = ClassPolicy("opus", memory_bytes=300 * MB)


def spec(name: str, memory_bytes: int = 300 * MB, *, external: bool = False) -> AgentSpec:
    return AgentSpec(name, dataclasses.replace(OPUS, memory_bytes=memory_bytes), ("true",), external=external)


@pytest.mark.parametrize(
    ("needed", "killed_at", "cap"),
    [
        (100, 0, 128),  # a quarter more is 125, in steps of 4 MB
        (8, 0, 24),  # at least 16 MB of room
        (96, 100, 152),  # it ended at 100, so 96 is not all that it needed
        (400, 100, 500),  # what was seen says more than where it ended
    ],
)
def test_a_cap_leaves_room_for_what_nobody_saw(needed: int, killed_at: int, cap: int) -> None:
    assert suggested(needed * MB, killed_at_bytes=killed_at * MB) == cap * MB
    assert cap * MB % STEP_BYTES == 0


def test_a_class_is_advised_by_whoever_of_it_needed_most() -> None:
    peaks = {"a": Peak("a", 80 * MB, days=3), "b": Peak("b", 200 * MB, days=5), "gone": Peak("gone", 900 * MB)}
    (advice,) = advise([spec("a"), spec("b"), spec("c"), spec("far", external=True)], {"opus": 300 * MB}, peaks)
    assert (advice.agents, advice.seen, advice.highest, advice.days) == (("a", "b", "c"), 2, "b", 5)
    assert (advice.of_class, advice.kills, advice.suggested_bytes) == (True, 0, 252 * MB)
    assert advice.needed_bytes == 200 * MB


def test_who_has_a_cap_of_his_own_is_advised_apart() -> None:
    peaks = {"a": Peak("a", 80 * MB), "big": Peak("big", 400 * MB, kills=2)}
    of_class, own = advise([spec("a"), spec("big", 500 * MB)], {"opus": 300 * MB}, peaks)
    assert (of_class.of_class, of_class.suggested_bytes) == (True, 100 * MB)
    assert (own.of_class, own.agents, own.suggested_bytes) == (False, ("big",), 752 * MB)


def test_whom_nobody_saw_gets_no_advice() -> None:
    (advice,) = advise([spec("a")], {"opus": 300 * MB}, {})
    assert (advice.seen, advice.highest, advice.suggested_bytes, advice.days, advice.needed_bytes) == (0, "", None, 0, 0)


def test_the_first_of_a_day_and_what_is_higher_by_a_step_is_written() -> None:
    highs = Highs()
    seen = [(1, 100), (1, 104), (1, 105), (1, 50), (2, 50), (2, 52), (2, 60)]
    assert [(day, size) for day, size in seen if highs.judge("a", day, size)] == [(1, 100), (1, 105), (2, 50), (2, 60)]


def test_who_left_the_roster_is_forgotten() -> None:
    highs = Highs()
    highs.judge("a", 1, 100)
    highs.judge("b", 1, 100)
    highs.forget(["b", "new"])
    assert (highs.judge("a", 1, 100), highs.judge("b", 1, 100)) == (True, False)
