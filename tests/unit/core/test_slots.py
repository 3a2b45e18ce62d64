"""One backend: what may begin beside what runs, and when its slots come free."""

from __future__ import annotations

import pytest

from supervisord_ai.core.slots import BackendSlots, Lease
from tests.unit.core.test_scheduler import ticket


def running(*models: str, slots: int = 3, **model_slots: int) -> BackendSlots:
    """A backend on which calls of these models began at 0, 1, 2 ... and are expected to take ten seconds each."""
    backend = BackendSlots("main", slots, is_ready=True, resident=frozenset({"m", "v"}), model_slots=model_slots)
    for number, model in enumerate(models):
        one = ticket("opus-1", model=model)
        backend.leases[one.id] = Lease(one, "main", float(number), estimate_s=10.0)
    return backend


def test_a_model_is_at_hand_where_it_is_loaded_and_has_a_slot_left() -> None:
    assert running(v=1).has_at_hand("v")
    assert not running("v", v=1).has_at_hand("v"), "its one slot is taken"
    assert running("v", v=1).has_at_hand("m")
    assert not running().has_at_hand("other"), "it is not loaded"
    assert not running("m", "m", "m").has_at_hand("m"), "nothing is free"


@pytest.mark.parametrize(
    ("models", "model", "has_more"),
    [
        ((), "m", True),
        (("m",), "m", True),
        (("m", "m"), "m", False),  # the one that starts takes the last slot
        (("m", "m"), None, False),
        (("m",), None, True),
        ((), "v", True),  # of two slots of its own
        (("v",), "v", False),
        (("m",), "v", True),
        (("m", "m"), "v", False),  # it has slots of its own left, and its backend has none
    ],
)
def test_a_second_call_could_start_beside_the_one_that_starts_now(
    models: tuple[str, ...], model: str | None, has_more: bool
) -> None:
    assert running(*models, v=2).has_more_room(model) is has_more


def test_slots_come_free_when_what_runs_there_is_expected_to_end_and_the_others_now() -> None:
    assert running("m", "v").free_at(5.0) == [10.0, 11.0, 5.0]
    assert running("m", "v").free_at(10.5) == [10.5, 11.0, 10.5], "one that takes longer than expected may end any moment"


def test_the_slots_of_a_model_are_its_own_few_or_those_of_its_backend() -> None:
    assert running("m", "v", v=2).model_free_at("v", 5.0) == [11.0, 5.0]
    assert running("m", "v", v=2).model_free_at("v", 12.0) == [12.0, 12.0]
    assert running("m", "v", v=2).model_free_at("m", 5.0) == [10.0, 5.0, 5.0]
