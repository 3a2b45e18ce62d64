"""The watchdog is fed by progress."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.core.progress import Signs
from supervisord_ai.health.alive import stay_alive


class Work:
    """A dispatcher that takes a turn when it is told to, and a journal."""

    def __init__(self) -> None:
        self.signs = Signs(0, 0, 0)
        self.takes_turns = True
        self.fed_at: list[float] = []

    def nudge(self) -> None:
        if self.takes_turns:
            self.signs = replace(self.signs, turns=self.signs.turns + 1)

    def feed(self) -> None:
        self.fed_at.append(trio.current_time())


async def test_it_is_fed_four_times_a_period_while_there_is_progress(autojump_clock: MockClock) -> None:
    work, began = Work(), trio.current_time()
    with trio.move_on_after(29):
        await stay_alive(work.feed, 20.0, look=lambda: work.signs, nudge=work.nudge)
    assert [at - began for at in work.fed_at] == [0, 5, 10, 15, 20, 25]


async def test_a_part_that_hangs_is_named_and_nothing_is_fed_until_it_moves(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    work = Work()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: stay_alive(work.feed, 20.0, look=lambda: work.signs, nudge=work.nudge))
        await trio.sleep(6)
        work.takes_turns = False
        fed = len(work.fed_at)
        await trio.sleep(20)
        assert len(work.fed_at) == fed + 1  # the turn of the last nudge
        assert "no progress: the dispatcher; systemd ends us if that lasts 20 s" in caplog.text
        work.takes_turns = True
        await trio.sleep(10)
        assert len(work.fed_at) > fed + 1
        nursery.cancel_scope.cancel()
