"""SSE comments for streaming callers of /v1 who wait: how many stand before them, and for how long."""

from __future__ import annotations

from pathlib import Path

import trio

from supervisord_ai.core.policies import QueuePolicy
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import OWNER, agent, life, wait_until

Clock = trio.abc.Clock
PATHS = ("/v1/chat/completions", "/v1/messages")


async def test_a_streaming_caller_of_v1_hears_every_15_seconds_how_long_it_will_be(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    for number, path in enumerate(PATHS):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with running(Double()) as double, life(folder, double, slots=1) as bench:
            await bench.ask(OWNER, "[[n=400 delay=0.1]]")
            bench.nursery.start_soon(bench.ask, agent("opus-01"), "[[n=400 delay=0.1]]")
            await wait_until(lambda bench=bench: bench.gateway.statistics().running == 1)  # type: ignore[misc]
            answer = await bench.ask(agent("opus-02"), "[[n=3]]", path=path, stream=True)
            comments = [line for line in answer.body.split(b"\n") if line.startswith(b":")]
            assert len(comments) == 2
            assert comments[0].startswith(b": queued position=1 estimate=")
            assert 20 <= int(comments[0].rpartition(b"=")[2].removesuffix(b"s")) <= 30
            assert answer.status == 200
            assert b"w2" in answer.body
            assert answer.headers.get("X-Request-Id") is not None
            # Who waits less than that sees no comment, and a native stream has no room for one.
            short = await bench.ask(agent("opus-02"), "[[n=3]]", path=path, stream=True)
            assert not short.body.startswith(b":")


async def test_an_error_behind_comments_is_an_event(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(deadline_s=20.0)
    async with running(Double()) as double, life(tmp_path, double, slots=1, queue=queue) as bench:
        bench.nursery.start_soon(bench.ask, agent("opus-01"), "[[n=400 delay=0.1]]")
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        late = await bench.ask(agent("opus-02"), "[[n=3]]", path="/v1/chat/completions", stream=True)
        assert late.status == 200
        comment, _, event = late.body.partition(b"\n\n")
        assert comment.startswith(b": queued position=1")
        assert event.startswith(b'data: {"error":{"message":"no slot came free within 20 s')
        assert late.body.count(b"[DONE]") == 0


async def test_what_ollama_refuses_behind_comments_is_an_event_too(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        bench.nursery.start_soon(bench.ask, agent("opus-01"), "[[n=400 delay=0.1]]")
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        answer = await bench.ask(agent("opus-02"), "[[n=3]]", path="/v1/messages", stream=True, model="nobody-has-this")
        assert b": queued position=1" in answer.body
        assert b"event: error\n" in answer.body
        assert b"nobody-has-this" in answer.body


async def test_native_streams_have_no_room_for_comments(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        bench.nursery.start_soon(bench.ask, agent("opus-01"), "[[n=400 delay=0.1]]")
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        answer = await bench.ask(agent("opus-02"), "[[n=3]]")
        assert answer.text() == "w0 w1 w2 "
