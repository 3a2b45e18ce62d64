"""What bodies cost while they come, wait and are answered: bounded over all callers, and nothing afterwards."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.core.calls import Body
from supervisord_ai.core.policies import LimitsPolicy
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import MODEL, OWNER, agent, life

Clock = trio.abc.Clock

HEAD = b"POST /api/generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_bodies_that_come_in_chunks_are_bounded_together_while_they_come(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = LimitsPolicy(body_bytes=8_000, ingest_bytes=10_000)
    async with running(Double()) as double, life(tmp_path, double, limits=limits) as bench:
        first, second = await bench.connect(agent("opus-01")), await bench.connect(agent("opus-02"))
        await first.send_all(HEAD + chunk(b" " * 6_000))
        await wait_all_tasks_blocked()
        await second.send_all(HEAD + chunk(b" " * 6_000))
        told = await second.receive_some()
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in told
        body = json.dumps({"model": MODEL, "prompt": "[[n=1]]", "stream": False}).encode()
        await first.send_all(chunk(body) + chunk(b""))
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        await wait_all_tasks_blocked()
        assert bench.gateway._ingest.held_bytes == 0


async def test_a_request_that_was_answered_leaves_nothing_of_its_body(tmp_path: Path, autojump_clock: Clock) -> None:
    gc.disable()  # what only the collector of cycles would find is held for too long: it may be 40 MB
    try:
        async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
            await bench.ask(OWNER, "[[n=1]]" + "x" * 200_000)
            await wait_all_tasks_blocked()
            assert [one for one in gc.get_objects() if isinstance(one, Body) and len(one) > 100_000] == []
    finally:
        gc.enable()
