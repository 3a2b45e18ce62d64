"""Callers of the double that leave, stop reading or close half: what is freed, and what each leak takes along."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.fakes.ollama_double import Leaks, running

from .double_bench import ask, loaded, read_all, recorded_double, say
from .golden.requests import generate, http

Clock = trio.abc.Clock


async def test_leaving_in_the_prompt_phase_frees_the_slots_at_once(autojump_clock: Clock) -> None:
    async with running(recorded_double(leaks=Leaks(True, True, 0.9))) as double:
        await say(double)
        leavers = [await double.dial() for _ in range(2)]
        for leaver in leavers:
            await leaver.send_all(generate("[[n=9 first=5]]"))
        await trio.sleep(1)
        assert double.statistics().running == 2
        for leaver in leavers:
            await leaver.aclose()
        began = trio.current_time()
        assert (await say(double))[0] == 200
        assert trio.current_time() - began < 0.1


async def test_a_half_close_after_the_request_is_a_caller_that_left(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        await say(double)
        stream = await double.dial()
        await stream.send_all(generate("[[n=9 first=5]]"))
        await trio.sleep(1)
        stream.half_close()  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        assert double.statistics().running == 0
        assert (await read_all(stream))[0] == b""


async def test_stalled_readers_hold_their_slots_and_take_them_along_until_an_unload(autojump_clock: Clock) -> None:
    """Recorded: a third request waits; after both left it still waits; unload and load give both slots back."""
    double = recorded_double(leaks=Leaks(on_slow_disconnect=True))
    double.room_bytes = 1000
    async with running(double):
        await say(double)
        stalled = [await double.dial() for _ in range(2)]
        for stream in stalled:
            await stream.send_all(generate("[[n=1000 delay=0.01]]"))
        await trio.sleep(60)
        with trio.move_on_after(60):
            await say(double)
            pytest.fail("a stalled reader's slot was free")
        for stream in stalled:
            await stream.aclose()
        with trio.move_on_after(60):
            await say(double)
            pytest.fail("a slot came back from a stalled reader that left")
        assert double.statistics().lost_slots == 2
        await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0})
        assert await loaded(double) == []
        assert (await say(double))[0] == 200
        assert double.statistics().lost_slots == 0


async def test_without_leaks_a_stalled_reader_that_left_gives_its_slot_back(autojump_clock: Clock) -> None:
    double = recorded_double()
    double.room_bytes = 1000
    async with running(double):
        stream = await double.dial()
        await stream.send_all(generate("[[n=1000 delay=0.01]]"))
        await trio.sleep(60)
        assert double.statistics().running == 1
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (double.statistics().running, double.statistics().lost_slots) == (0, 0)


@pytest.mark.parametrize(
    ("fraction", "after_the_chunk_s", "lost"), [(0.5, 0.06, 1), (0.5, 0.04, 0), (0.9, 0.0, 0), (0.0, 0.09, 0)]
)
async def test_leaving_between_two_tokens_loses_the_slot_in_the_last_part_of_the_gap(
    fraction: float, after_the_chunk_s: float, lost: int, autojump_clock: Clock
) -> None:
    async with running(recorded_double(leaks=Leaks(mid_stream_cancel=fraction))) as double:
        await say(double)
        stream = await double.dial()
        await stream.send_all(generate("[[n=9 delay=0.1]]"))
        await stream.receive_some()
        await trio.sleep(after_the_chunk_s)
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert double.statistics().lost_slots == lost
        assert double.statistics().running == 0


async def test_a_caller_of_one_body_never_loses_a_slot_by_leaving(autojump_clock: Clock) -> None:
    async with running(recorded_double(leaks=Leaks(True, True, 0.99))) as double:
        await say(double)
        stream = await double.dial()
        await stream.send_all(generate("[[n=9 delay=0.1]]", stream=False))
        await trio.sleep(0.35)
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (double.statistics().lost_slots, double.statistics().running) == (0, 0)


async def test_a_waiter_for_a_slot_that_leaves_is_out_of_the_line(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        await say(double)
        streams = [await double.dial() for _ in range(3)]
        for stream in streams:
            await stream.send_all(http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=9 delay=1]]"}))
            await trio.testing.wait_all_tasks_blocked()
        await streams[2].aclose()
        await trio.sleep(100)
        assert double.statistics().peak_running == 2
        assert double.statistics().in_flight == 0
