"""What the sampler is told of the backlog."""

from __future__ import annotations

import itertools

import pytest

from supervisord_ai.core.scheduler import Scheduler, Ticket
from supervisord_ai.gateway.outlook import Outlook
from tests.fakes.clock import StillClock

NUMBERS = itertools.count()


def ticket(agent: str, *, at: float = 0.0, not_before: float = 0.0, is_async: bool = False, within_s: float = 240.0) -> Ticket:
    return Ticket(f"{next(NUMBERS)}", agent, "sonnet", 5, at, at + within_s, "m", not_before=not_before, is_async=is_async)


class Line:
    """A backlog before one Ollama of two slots whose calls take 5 s."""

    def __init__(self, *, is_known: bool = True, is_there: bool = True) -> None:
        self.scheduler = Scheduler({"main": 2})
        self.clock = StillClock(0.0)
        self.outlook = Outlook(self.scheduler, self.clock)
        if is_there:
            self.scheduler.backend_ready("main", resident=frozenset({"m"}))
        if is_known:
            self.scheduler.service.note("m", 5.0)

    def wait(self, count: int, **more: float) -> Line:
        for number in range(count):
            self.scheduler.push(ticket(f"a{number}", **more))  # type: ignore[arg-type]
        return self


def test_nobody_waits_nobody_is_pressed() -> None:
    load = Line().outlook.load(2)
    assert (load.queued, load.running, load.slots, load.oldest_s, load.wait_s, load.wait_share) == (0, 2, 2, 0.0, 0.0, 0.0)


def test_the_share_is_the_wait_of_a_newcomer_over_its_deadline() -> None:
    line = Line().wait(48, at=-10.0)
    load = line.outlook.load(2)
    assert load.wait_s == 120.0
    assert load.wait_share == pytest.approx(0.5)
    assert load.oldest_s == 10.0


def test_who_waits_for_its_own_rate_or_asked_to_be_answered_later_is_not_counted() -> None:
    line = Line().wait(20, not_before=100.0)
    for number in range(500):
        line.scheduler.push(ticket(f"later{number}", is_async=True))
    load = line.outlook.load(2)
    assert load.queued == 520
    assert (load.wait_s, load.wait_share, load.oldest_s) == (0.0, 0.0, 0.0)


def test_nobody_is_frightened_by_a_guess() -> None:
    load = Line(is_known=False).wait(500).outlook.load(2)
    assert load.wait_s is None
    assert load.wait_share == 0.0


def test_while_no_backend_answers_what_was_waited_is_the_least_that_is_true() -> None:
    line = Line(is_there=False).wait(10)
    line.clock.now = 120.0
    load = line.outlook.load(0)
    assert load.wait_s is None
    assert load.wait_share == pytest.approx(0.5)


def test_one_agent_that_floods_its_own_line_presses_nobody() -> None:
    line = Line()
    for _ in range(64):
        line.scheduler.push(ticket("flooder"))
    assert (line.outlook.load(2).wait_share or 0.0) < 0.05
