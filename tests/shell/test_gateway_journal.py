"""Row first, then memory: what the disk does to a request on its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing

from tests.fakes.disk import FakeDisk, HeldThread
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import MODEL, OWNER, agent, life, wait_until
from tests.shell.test_gateway_leavers import begin

Clock = trio.abc.Clock
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def test_nothing_starts_before_its_row_is_durable(tmp_path: Path, autojump_clock: Clock) -> None:
    held = HeldThread()
    async with running(Double()) as double, life(tmp_path, double, run_sync=held) as bench:
        client = await begin(bench, agent("opus-01"), "[[n=3]]")
        await held.begun()
        await trio.testing.wait_all_tasks_blocked()
        view = bench.gateway.statistics()
        assert (view.queued, view.running, double.statistics().calls) == (1, 0, {})
        held.let_go()
        await wait_until(lambda: bench.gateway.statistics().totals.answered == 1)
        client.close()


async def test_a_slot_does_not_wait_for_the_disk_to_have_its_last_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    async def slow_disk(fn: Callable[[*Ts], T], *args: *Ts) -> T:
        result = fn(*args)
        await trio.sleep(0.5)
        return result

    async with running(Double()) as double, life(tmp_path, double, slots=1, run_sync=slow_disk) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        answered_at: list[float] = []

        async def ask(number: int) -> None:
            await bench.ask(agent(f"opus-{number:02}"), f"[[n=1 first=3]] {number}")
            answered_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 1)
            await trio.sleep(2)  # its call is under way
            nursery.start_soon(ask, 2)
        # The second's claim is written with the first's answer, in one sync; then its call, and its own answer.
        assert answered_at[1] - answered_at[0] == pytest.approx(3 + 0.5, abs=0.1)


async def test_who_leaves_while_its_row_is_written_starts_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    held = HeldThread()
    async with running(Double()) as double, life(tmp_path, double, run_sync=held) as bench:
        client = await begin(bench, agent("opus-01"), "[[n=3]]")
        await held.begun()
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        await wait_until(lambda: bench.gateway.statistics().totals.cancelled == 1, within_s=0.25)
        held.let_go()
        await wait_until(lambda: bench.state.statistics().requests.cancelled == 1)
        await trio.sleep(5)
        assert double.statistics().calls == {}
        assert bench.gateway.statistics().queued == 0


async def test_a_request_that_cannot_be_written_is_not_promised(tmp_path: Path, autojump_clock: Clock) -> None:
    disk = FakeDisk()
    async with running(Double()) as double, life(tmp_path, double, disk=disk) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        calls = double.statistics().calls[MODEL]
        disk.breaks()
        answer = await bench.ask(agent("opus-01"), "[[n=1]]")
        assert answer.status == 503
        assert "journal" in answer.json()["error"]
        assert double.statistics().calls[MODEL] == calls
        assert (await bench.call(agent("opus-01"), "GET", "/api/tags")).status == 200


async def test_an_answer_under_way_is_given_although_its_row_cannot_be_written(tmp_path: Path, autojump_clock: Clock) -> None:
    disk = FakeDisk()
    async with running(Double()) as double, life(tmp_path, double, disk=disk) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answer = await bench.ask(agent("opus-01"), "[[n=10 delay=0.1]]")
                assert answer.lines()[-1]["done"] is True

            nursery.start_soon(ask)
            await wait_until(lambda: double.statistics().running == 1)
            disk.breaks()
        assert bench.gateway.statistics().backends[0].busy == 0
