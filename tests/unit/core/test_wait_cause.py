"""Why a request waits, one cause at a time."""

from __future__ import annotations

import pytest

from supervisord_ai.core.scheduler import Load, Scheduler, Ticket
from supervisord_ai.core.wait_cause import WaitCause

WAITS = Ticket("a", "opus-1", "opus", 5, 0.0, 1e9, model="m")
LATER = Ticket("b", "opus-1", "opus", 5, 0.0, 1e9, model="m", not_before=7.0)


def ready(*resident: str) -> Scheduler:
    scheduler = Scheduler({"main": 1})
    scheduler.backend_ready("main", resident=frozenset(resident), installed=frozenset({"m", "other"}))
    return scheduler


def paused() -> Scheduler:
    scheduler = ready("m")
    scheduler.is_paused = True
    return scheduler


def without_model() -> Scheduler:
    scheduler = Scheduler({"main": 1, "gone": 1})
    scheduler.backend_ready("main", resident=frozenset(), installed=frozenset({"other"}))
    scheduler.backend_ready("gone", resident=frozenset(), installed=frozenset({"m"}))
    scheduler.backend_lost("gone")
    return scheduler


def tripped() -> Scheduler:
    scheduler = ready("m")
    scheduler.allow("main", 0)
    return scheduler


def held(model: str | None) -> Scheduler:
    scheduler = ready("m")
    scheduler.hold("main", model)
    return scheduler


def loading(model: str) -> Scheduler:
    scheduler = ready()
    scheduler.want(Load("main", model, False))
    scheduler.decide(0.0)
    return scheduler


def busy() -> Scheduler:
    scheduler = ready("m")
    scheduler.push(Ticket("first", "opus-2", "opus", 5, 0.0, 1e9, model="m"))
    scheduler.decide(0.0)
    return scheduler


@pytest.mark.parametrize(
    ("scheduler", "ticket", "cause", "words"),
    [
        (paused(), WAITS, WaitCause.OWNER, "its owner paused the queue"),
        (ready("m"), LATER, WaitCause.RATE, "not before 6 s from now"),
        (Scheduler({"main": 1}), WAITS, WaitCause.BACKEND, "no backend answers"),
        (without_model(), WAITS, WaitCause.BACKEND, "no backend that has m answers"),
        (tripped(), WAITS, WaitCause.BREAKER, "the breaker is open, or lets one call through to find out"),
        (held("m"), WAITS, WaitCause.LOAD, "m is being unloaded or looked after"),
        (held(None), WAITS, WaitCause.LOAD, "m is being unloaded or looked after"),
        (loading("m"), WAITS, WaitCause.LOAD, "m is being loaded"),
        (loading("other"), WAITS, WaitCause.LOAD, "another model is being loaded"),
    ],
)
def test_a_wait_has_one_cause_and_says_it_in_words(
    scheduler: Scheduler, ticket: Ticket, cause: WaitCause, words: str
) -> None:
    assert (scheduler.cause(ticket, 1.0), scheduler.reason(ticket, 1.0)) == (cause, words)


def test_who_waits_for_a_busy_slot_is_told_so() -> None:
    assert busy().cause(WAITS, 1.0) is WaitCause.SLOT
    assert busy().cause(LATER, 7.0) is WaitCause.SLOT  # its time has come


def test_while_one_call_may_find_out_the_breaker_keeps_nobody() -> None:
    scheduler = busy()
    scheduler.allow("main", 1)
    assert scheduler.cause(WAITS, 1.0) is WaitCause.SLOT


def test_who_waits_for_a_slot_of_a_model_that_has_few_is_told_which() -> None:
    scheduler = Scheduler({"main": 2})
    scheduler.backend_ready("main", resident=frozenset({"m"}), installed=frozenset({"m"}), model_slots={"m": 1})
    scheduler.push(Ticket("first", "opus-2", "opus", 5, 0.0, 1e9, model="m"))
    scheduler.decide(0.0)
    assert (scheduler.cause(WAITS, 1.0), scheduler.reason(WAITS, 1.0)) == (WaitCause.SLOT, "all slots of m are busy")
