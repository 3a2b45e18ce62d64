"""SSE comments for streaming callers of /v1 who wait: how many stand before them, and for how long."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import trio

from supervisord_ai.core.policies import QueuePolicy
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import MODEL, OWNER, Answered, Bench, agent, life, wait_until

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


async def test_who_is_cancelled_by_the_owner_is_told_so_behind_comments_and_in_the_middle_of_a_stream(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A connection that only breaks off is taken up again by every SDK, and then the request is there once more."""
    told: dict[str, bytes] = {}
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:

        async def ask(name: str, prompt: str, **how: Any) -> None:
            told[name] = (await bench.ask(agent(name), prompt, stream=True, **how)).body

        bench.nursery.start_soon(ask, "opus-01", "[[n=400 delay=0.1]]")
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        bench.nursery.start_soon(partial(ask, "opus-02", "[[n=3]]", path="/v1/chat/completions"))
        await trio.sleep(20)
        (waiting,) = bench.gateway.statistics().queue
        (running_now,) = bench.gateway.statistics().backends[0].running
        assert bench.gateway.cancel(waiting.id)
        assert bench.gateway.cancel(running_now.id)
        await wait_until(lambda: len(told) == 2)
    comment, _, event = told["opus-02"].partition(b"\n\n")
    assert comment.startswith(b": queued position=1")
    assert event.startswith(b'data: {"error":{"message":"request canceled"')
    assert json.loads(told["opus-01"].splitlines()[-1]) == {"error": "request canceled"}


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


def comments(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.startswith(b":")]


async def test_who_shares_the_answer_of_another_hears_how_long_it_will_be_as_well(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    same: dict[str, Any] = {"path": "/v1/chat/completions", "stream": True, "temperature": 0}
    answers: list[Answered] = []

    async def ask(bench: Bench, name: str) -> None:
        answers.append(await bench.ask(agent(name), "[[n=3]]", **same))

    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, agent("opus-01"), "[[n=400 delay=0.1]]")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            nursery.start_soon(ask, bench, "opus-02")
            nursery.start_soon(ask, bench, "opus-03")
        assert double.statistics().calls[MODEL] == 3
        assert bench.gateway.statistics().totals.coalesced == 1
    for answer in answers:
        assert len(comments(answer.body)) == 2
        assert answer.body.endswith(b"data: [DONE]\n\n")
    ids = {json.loads(event.removeprefix(b"data: "))["id"] for answer in answers for event in answer.body.split(b"\n\n")[2:-2]}
    assert len(ids) == 2


async def test_what_was_promised_with_a_comment_outlives_a_crash_and_who_comes_back_hears_comments(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    asked: dict[str, Any] = {"path": "/v1/chat/completions", "stream": True, "headers": {"Idempotency-Key": "k"}}
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "[[n=3]]"}], "stream": True}).encode()
    async with running(Double()) as double:
        async with life(tmp_path, double, slots=1) as bench:
            bench.nursery.start_soon(bench.ask, OWNER, "[[n=400 delay=0.1]]")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            client = bench.client_of(agent("opus-02"))
            async with client.open("POST", asked["path"], body=body, headers=list(asked["headers"].items())) as reply:
                assert (await reply.next_chunk() or b"").startswith(b": queued position=1")
                promised = reply.headers.get("X-Request-Id")
                bench.nursery.cancel_scope.cancel()
        async with life(tmp_path, double, slots=1) as bench:
            bench.nursery.start_soon(bench.ask, OWNER, "[[n=400 delay=0.1]] another")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            answer = await bench.ask(agent("opus-02"), "[[n=3]]", **asked)
            assert comments(answer.body)[0].startswith(b": queued position=1")
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert answer.headers.get("X-Request-Id") == promised
            # What is kept is there at once: nothing to comment.
            kept = await bench.ask(agent("opus-02"), "[[n=3]]", **asked)
            assert comments(kept.body) == []
            assert kept.headers.get("X-Request-Id") == promised
            assert kept.body.endswith(b"data: [DONE]\n\n")
