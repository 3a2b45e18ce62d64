"""Whom a slow backend serves, beside quick ones that answer, that do not, and that lack the model."""

from __future__ import annotations

import pytest

from supervisord_ai.core.placement import Placement
from supervisord_ai.core.slots import BackendSlots
from tests.unit.core.test_scheduler import ticket

URGENT = 3


def slow_one(*, gpu_is_ready: bool = True, gpu_has: tuple[str, ...] = ("small",)) -> tuple[Placement, BackendSlots]:
    """A backend on the processor that has two models, beside one that is none."""
    gpu = BackendSlots("gpu", 2, is_ready=gpu_is_ready, installed=frozenset(gpu_has), resident=frozenset(gpu_has))
    cpu = BackendSlots("cpu", 1, is_ready=True, is_cpu=True, installed=frozenset({"small", "big"}))
    cpu.resident = cpu.installed
    return Placement([gpu, cpu], URGENT), cpu


@pytest.mark.parametrize(("priority", "is_taken"), [(1, False), (URGENT, False), (URGENT + 1, True)])
def test_a_slow_backend_takes_what_is_not_urgent(priority: int, is_taken: bool) -> None:
    placement, cpu = slow_one()
    assert placement.takes(ticket("opus-1", priority=priority, model="small"), cpu) is is_taken
    assert placement.suits(ticket("opus-1", priority=priority, model="small"), cpu) is is_taken


def test_what_is_urgent_goes_to_a_slow_backend_when_no_quick_one_answers() -> None:
    placement, cpu = slow_one(gpu_is_ready=False)
    assert placement.takes(ticket("opus-1", priority=1, model="small"), cpu)


def test_what_is_urgent_goes_to_a_slow_backend_that_alone_has_the_model() -> None:
    placement, cpu = slow_one()
    assert placement.takes(ticket("opus-1", priority=1, model="big"), cpu)


def test_one_that_asks_for_no_model_goes_to_a_quick_backend_when_it_is_urgent() -> None:
    placement, cpu = slow_one(gpu_has=())
    assert not placement.takes(ticket("opus-1", priority=1), cpu)
    assert placement.takes(ticket("opus-1", priority=URGENT + 1), cpu)
