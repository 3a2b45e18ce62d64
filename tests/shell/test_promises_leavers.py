"""Promise G3 where the other tests of leavers do not look: one-body callers, all places at once, an agent that is killed.

A leaver is out of every queue within 250 ms. Its upstream call is closed just after the next chunk, or after 2 s without
one, and the slot is free then. A slow reader holds no slot at all.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.ollama_double import Double, DoubleOptions, Leaks, Script, running
from tests.shell.gateway_bench import MODEL, OWNER, Bench, agent, life, prompt_field, roster_of, wait_until

Clock = trio.abc.Clock

OUT_OF_QUEUES_S = 0.25
GRACE_S = 2.0
LEAKING = DoubleOptions(leaks=Leaks(on_slow_disconnect=True, on_pending_cancel=True, mid_stream_cancel=0.5))
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "native, stream": ("/api/generate", {"stream": True}),
    "native, one body": ("/api/generate", {"stream": False}),
    "native chat, one body": ("/api/chat", {"stream": False}),
    "openai, stream": ("/v1/chat/completions", {"stream": True}),
    "openai, one body": ("/v1/chat/completions", {}),
    "anthropic, one body": ("/v1/messages", {}),
}


async def asks(bench: Bench, caller: Caller, prompt: str, path: str = "/api/generate", **fields: Any) -> MemoryClient:
    """A request on its way; nothing of its answer is read."""
    body = json.dumps({"model": MODEL, **prompt_field(path, prompt), **fields}).encode()
    client = await bench.connect(caller)
    await client.send_all(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


async def both_slots_serve(bench: Bench) -> None:
    """Two callers are served at the same time, by an Ollama that lost nothing."""
    async with trio.open_nursery() as nursery:
        for name in ("sonnet-01", "sonnet-02"):
            nursery.start_soon(partial(bench.ask, agent(name), "[[n=20 delay=0.1]]"))
        await wait_until(lambda: bench.double.statistics().running == 2)
    counts = bench.double.statistics()
    assert (counts.lost_slots, counts.leaked_handlers) == (0, 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["prefill", "generation"])
async def test_g3_whatever_the_form_and_wherever_it_stands_a_leavers_slot_is_free_by_the_rule(
    tmp_path: Path, autojump_clock: Clock, form: str, place: str
) -> None:
    path, fields = FORMS[form]
    prompt = "[[n=100 first=60]]" if place == "prefill" else "[[n=400 delay=0.5]]"
    async with running(Double(options=LEAKING)) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        client = await asks(bench, agent("opus-01"), prompt, path, **fields)
        await trio.sleep(5.2)
        assert double.statistics().running == 1
        client.close()
        left_at = trio.current_time()
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        within_s = 0.5 if place == "generation" and path.startswith("/api/") else GRACE_S
        assert trio.current_time() - left_at <= within_s + 0.05
        await wait_until(lambda: double.statistics().running == 0, within_s=0.5)
        assert bench.gateway.statistics().totals.cancelled == 1


async def test_g3_ten_leavers_of_the_queue_start_nothing_at_ollama(tmp_path: Path, autojump_clock: Clock) -> None:
    roster = roster_of(2, 10)
    async with running(Double(options=LEAKING)) as double, life(tmp_path, double, roster=roster) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for number in (1, 2):
            await asks(bench, agent(f"opus-{number:02}"), "[[n=100 delay=0.1]]")
        await wait_until(lambda: bench.gateway.statistics().running == 2)
        started = double.statistics().calls[MODEL]
        forms = list(FORMS.values())
        leavers = []
        for number in range(10):
            path, fields = forms[number % len(forms)]
            leavers.append(await asks(bench, agent(f"sonnet-{number + 1:02}"), "[[n=1]]", path, **fields))
        await wait_until(lambda: bench.gateway.statistics().queued == 10)
        for leaver in leavers:
            leaver.close()
        await wait_until(lambda: bench.gateway.statistics().queued == 0, within_s=OUT_OF_QUEUES_S)
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert double.statistics().calls[MODEL] == started
        await both_slots_serve(bench)


async def test_g3_an_agent_that_is_killed_is_out_of_every_place_at_once(tmp_path: Path, autojump_clock: Clock) -> None:
    """Its connections stay open, as they do when a process that it left behind holds them."""
    async with running(Double(options=LEAKING)) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        killed = agent("opus-01")
        await asks(bench, killed, "[[n=400 delay=0.5]]")
        await asks(bench, killed, "[[n=1 first=60]]", stream=False)
        await wait_until(lambda: bench.gateway.statistics().running == 2)
        for path, fields in FORMS.values():
            await asks(bench, killed, "[[n=1]]", path, **fields)
        other = await asks(bench, agent("sonnet-01"), "[[n=1]]", stream=False)
        await wait_until(lambda: bench.gateway.statistics().queued == len(FORMS) + 1)
        started = double.statistics().calls[MODEL]
        bench.ended("opus-01")
        killed_at = trio.current_time()
        await wait_until(lambda: {q.agent for q in bench.gateway.statistics().queue} <= {"sonnet-01"}, OUT_OF_QUEUES_S)
        await wait_until(lambda: {r.agent for r in bench.gateway.statistics().backends[0].running} <= {"sonnet-01"})
        assert trio.current_time() - killed_at <= GRACE_S + 0.05
        assert b'"done":true' in await other.receive_some()
        assert double.statistics().calls[MODEL] == started + 1
        await both_slots_serve(bench)


async def test_g3_ten_megabytes_read_at_a_byte_a_second_hold_no_slot_and_cost_none_when_the_reader_leaves(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    double = Double(options=LEAKING, room_bytes=4096)
    patient = QueuePolicy(deadline_s=3000.0)
    long = Script(tokens=tuple(f"{number:05}" + "x" * 9_900 for number in range(1000)), delay_s=0.001)
    async with running(double), life(tmp_path, double, queue=patient) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for _ in range(2):
            double.script = lambda ask: long if "10 MB" in ask.prompt else None
            slow = [await asks(bench, agent(f"opus-{number:02}"), f"10 MB {number}") for number in (1, 2)]
            await wait_until(lambda: bench.gateway.statistics().running == 2)
            read = 0
            while read < 60:
                for client in slow:
                    read += len(await client.receive_some(1))
                await trio.sleep(1)
            view = bench.gateway.statistics()
            assert (view.running, double.statistics().running) == (0, 0)
            assert view.spool.memory_bytes + view.spool.disk_bytes > 19_000_000
            await both_slots_serve(bench)
            for client in slow:
                client.close()
            await wait_until(lambda: bench.gateway.statistics().spool.memory_bytes == 0)
            await both_slots_serve(bench)
