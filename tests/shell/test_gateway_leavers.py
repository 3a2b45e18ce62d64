"""Who leaves is out of every queue at once, starts nothing, and costs Ollama no slot; who reads slowly holds none."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from supervisord_ai.core.identity import Caller
from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.ollama_double import Double, DoubleOptions, Leaks, running
from tests.shell.gateway_bench import MODEL, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock


def raw_generate(prompt: str, *, stream: bool = True, headers: str = "") -> bytes:
    body = json.dumps({"model": MODEL, "prompt": prompt, "stream": stream}).encode()
    return f"POST /api/generate HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def begin(
    bench: Bench,
    caller: Caller,
    prompt: str,
    *,
    kind: str = "memory-unix",
    stream: bool = True,
    headers: str = "",
    room: int = 65536,
) -> MemoryClient:
    """A request on its way, nothing of its answer read."""
    client = await bench.connect(caller, kind=kind, room_bytes=room)
    await client.send_all(raw_generate(prompt, stream=stream, headers=headers))
    return client


async def warm(bench: Bench) -> int:
    """Have the model loaded; returns how many calls Ollama has seen for that."""
    await bench.ask(agent("opus-01"), "[[n=1]]")
    return bench.double.statistics().calls[MODEL]


async def fill_slots(bench: Bench, prompt: str = "[[n=100 delay=0.1]]") -> list[MemoryClient]:
    clients = [await begin(bench, agent(f"opus-{n:02}"), prompt) for n in (1, 2)]
    await wait_until(lambda: bench.gateway.statistics().running == 2)
    return clients


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_leaver_is_gone_within_250_ms_and_never_starts(
    tmp_path: Path, autojump_clock: Clock, stream: bool
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        calls = await warm(bench)
        await fill_slots(bench)
        client = await begin(bench, agent("sonnet-01"), "[[n=3]] leaver", stream=stream)
        await wait_until(lambda: bench.gateway.statistics().queued == 1)
        client.close()
        left_at = trio.current_time()
        await wait_until(lambda: bench.gateway.statistics().queued == 0)
        assert trio.current_time() - left_at <= 0.25
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert double.statistics().calls[MODEL] == calls + 2  # those that held the slots
        assert bench.gateway.statistics().totals.cancelled == 1
        assert bench.state.statistics().requests.cancelled == 1


async def test_500_queued_leavers_start_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    roster = roster_of(2, 50)
    async with running(Double()) as double, life(tmp_path, double, roster=roster) as bench:
        calls = await warm(bench)
        await fill_slots(bench)
        clients = [await begin(bench, agent(f"sonnet-{n % 50 + 1:02}"), "[[n=3]]") for n in range(500)]
        await wait_until(lambda: bench.gateway.statistics().queued == 500)
        for client in clients:
            client.close()
        await trio.sleep(0.25)
        assert bench.gateway.statistics().queued == 0
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert double.statistics().calls[MODEL] == calls + 2
        assert bench.state.statistics().requests.queued == 0


async def test_an_active_leaver_frees_its_slot_just_after_the_next_chunk(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        clients = await fill_slots(bench, "[[n=1000 delay=0.5]]")
        await trio.sleep(5.1)
        clients[0].close()
        left_at = trio.current_time()
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        assert trio.current_time() - left_at <= 0.5
        await wait_until(lambda: double.statistics().running == 1)


async def test_a_leaver_in_its_prompt_phase_frees_its_slot_after_two_seconds(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        clients = await fill_slots(bench, "[[n=5 first=100]]")
        clients[0].close()
        left_at = trio.current_time()
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        assert 1.9 <= trio.current_time() - left_at <= 2.1
        answer = await bench.ask(agent("sonnet-01"), "[[n=2]]")
        assert answer.text() == "w0 w1 "


async def test_a_half_close_on_a_unix_socket_is_a_caller_still_waiting(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        client = await begin(bench, agent("opus-01"), "[[n=3]]")
        client.half_close()
        received = await read_all(client)
        assert b'"done":true' in received


async def test_a_half_close_on_tcp_is_a_leaver(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        await fill_slots(bench)
        client = await begin(bench, agent("sonnet-01"), "[[n=3]]", kind="memory-tcp")
        await wait_until(lambda: bench.gateway.statistics().queued == 1)
        client.half_close()
        await wait_until(lambda: bench.gateway.statistics().queued == 0, within_s=0.25)


async def test_the_requests_of_an_agent_that_ended_are_left(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        await fill_slots(bench, "[[n=1000 delay=0.1]]")
        await begin(bench, agent("opus-01"), "[[n=3]]", headers="Idempotency-Key: k\r\n")
        await begin(bench, agent("sonnet-01"), "[[n=3]]")
        await wait_until(lambda: bench.gateway.statistics().queued == 2)
        bench.ended("opus-01")
        assert [queued.agent for queued in bench.gateway.statistics().queue] == ["sonnet-01"]
        await wait_until(lambda: {r.agent for r in bench.gateway.statistics().backends[0].running} == {"opus-02", "sonnet-01"})


async def test_a_slow_reader_holds_no_slot_and_gets_every_byte(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await warm(bench)
        slow = await begin(bench, agent("opus-01"), "[[n=2000 delay=0.001]]", room=1000)
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        await wait_until(lambda: bench.gateway.statistics().running == 0, within_s=5)
        assert bench.gateway.statistics().spool.memory_bytes > 100_000
        quick = await bench.ask(agent("sonnet-01"), "[[n=2]]")
        assert quick.text() == "w0 w1 "
        received = await read_all(slow, at_once=1000, pause_s=0.5)
        assert received.count(b'"done":false') == 2000
        assert received.endswith(b"0\r\n\r\n")
        slow.close()
        await wait_until(lambda: bench.gateway.statistics().spool.memory_bytes == 0)


async def test_two_slow_readers_that_leave_cost_no_slot_of_a_leaking_ollama(tmp_path: Path, autojump_clock: Clock) -> None:
    leaking = DoubleOptions(leaks=Leaks(on_slow_disconnect=True))
    async with running(Double(options=leaking, room_bytes=1000)) as double, life(tmp_path, double) as bench:
        await warm(bench)
        slow = [await begin(bench, agent(f"opus-{n:02}"), "[[n=1000 delay=0.01]]", room=1000) for n in (1, 2)]
        await trio.sleep(3)
        for client in slow:
            client.close()
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert double.statistics().lost_slots == 0
        await bench.ask(agent("sonnet-01"), "[[n=2]]")


async def test_500_leavers_at_random_moments_cost_no_slot_of_a_leaking_ollama(tmp_path: Path, autojump_clock: Clock) -> None:
    leaks = Leaks(on_slow_disconnect=True, on_pending_cancel=True, mid_stream_cancel=0.5)
    seeded = random.Random(7)
    roster = roster_of(2, 20)
    async with running(Double(options=DoubleOptions(leaks=leaks))) as double, life(tmp_path, double, roster=roster) as bench:
        await warm(bench)
        for number in range(500):
            client = await begin(bench, agent(f"sonnet-{number % 20 + 1:02}"), "[[n=50 delay=0.1]]")
            await trio.sleep(seeded.random())
            client.close()
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert double.statistics().lost_slots == 0
        async with trio.open_nursery() as nursery:
            for name in ("opus-01", "opus-02"):
                nursery.start_soon(bench.ask, agent(name), "[[n=20 delay=0.1]]")
            await wait_until(lambda: double.statistics().running == 2)
        assert double.statistics().connections <= 10


async def test_a_leaver_during_a_load_aborts_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    leaking = DoubleOptions(load_s=5.0, leaks=Leaks(on_pending_cancel=True))
    async with running(Double(options=leaking)) as double, life(tmp_path, double) as bench:
        client = await begin(bench, agent("opus-01"), "[[n=3]]")
        await wait_until(lambda: double.statistics().loading is not None)
        client.close()
        await trio.sleep(0.25)
        assert bench.gateway.statistics().queued == 0
        answer = await bench.ask(agent("opus-02"), "[[n=2]]")
        assert answer.text() == "w0 w1 "
        counts = double.statistics()
        assert (counts.loads[MODEL], counts.aborted_loads, counts.leaked_handlers) == (1, 0, 0)


async def test_a_caller_that_was_gone_for_a_moment_takes_its_running_request_back(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        calls = await warm(bench)
        client = await begin(bench, agent("opus-01"), "[[n=20 first=1.5 delay=0.1]]", headers="Idempotency-Key: k\r\n")
        await wait_until(lambda: double.statistics().running == 1)
        client.close()
        await trio.sleep(0.5)
        answer = await bench.ask(agent("opus-01"), "[[n=20 first=1.5 delay=0.1]]", headers={"Idempotency-Key": "k"})
        assert answer.text().count("w") == 20
        assert double.statistics().calls[MODEL] == calls + 1


async def read_all(client: MemoryClient, *, at_once: int = 65536, pause_s: float = 0.0) -> bytes:
    """Everything up to the end of the chunks, slowly."""
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        data = await client.receive_some(at_once)
        if not data:
            break
        received += data
        await trio.sleep(pause_s)
    return received
