"""What an agent may rely on when several ask at once for what one call can answer: checks 55 and 57."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio
import trio.testing

from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.ollama_double import Double, DoubleOptions

from .double_bench import RECORDED_MODELS, read_all, recorded_double
from .gateway_bench import Bench, agent, error_of, gateway_before, head_of, status_of
from .golden import Answer, parse_answers
from .golden.requests import http

Clock = trio.abc.Clock
COLD = {"model": "chat", "prompt": "[[n=20 delay=0.1]]", "options": {"temperature": 0}}


async def ten_identical(bench: Bench) -> list[MemoryClient]:
    """Ten callers of three agents, half of them for a stream, all waiting for their answer."""
    await bench.ask("POST", "/api/generate", {"model": "chat"})
    clients = []
    for number in range(10):
        client = bench.connect(agent(number % 3 + 1))
        await client.send_all(http("POST", "/api/generate", {**COLD, "stream": number % 2 == 0}))
        await trio.testing.wait_all_tasks_blocked()
        clients.append(client)
    return clients


async def test_55_ten_identical_calls_are_one_and_nine_outlive_the_leader(tmp_path: Path, autojump_clock: Clock) -> None:
    async with gateway_before(Double(RECORDED_MODELS), tmp_path) as bench:
        clients = await ten_identical(bench)
        await trio.sleep(1)
        assert bench.double.statistics().calls["chat:latest"] == 1
        clients[0].close()
        for client in clients[1:]:
            (answer,) = parse_answers((await read_all(client, quiet_s=10))[0])
            lines = [json.loads(line) for line in answer.body.splitlines()]
            assert "".join(line["response"] for line in lines) == "".join(f"w{n} " for n in range(20))
            assert lines[-1]["done"] is True
        assert bench.double.statistics().calls["chat:latest"] == 1


async def test_55_when_all_ten_have_left_the_call_is_closed(tmp_path: Path, autojump_clock: Clock) -> None:
    async with gateway_before(Double(RECORDED_MODELS), tmp_path) as bench:
        clients = await ten_identical(bench)
        await trio.sleep(1)
        for client in clients:
            client.close()
        await trio.sleep(0.25)
        assert bench.double.statistics().running == 0
        assert bench.gateway.statistics().running == 0


TEXTS = ("a", "b c", "d")


async def embeds_behind_a_busy_model(bench: Bench, bodies: list[dict[str, Any]]) -> list[Answer]:
    """Three agents ask while the slot is in use; their answers in the order of the bodies."""
    answers: dict[int, Answer] = {}

    async def one(number: int, body: dict[str, Any]) -> None:
        answers[number] = await bench.ask("POST", "/api/embed", {"model": "embed", **body}, caller=agent(number + 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.ask, "POST", "/api/generate", {"model": "chat", "prompt": "[[n=10 delay=0.1]]"})
        await trio.sleep(0.5)
        for number, body in enumerate(bodies):
            nursery.start_soon(one, number, body)
    return [answers[number] for number in range(len(bodies))]


async def test_57_embeds_that_wait_together_are_one_call_with_the_vectors_of_single_ones(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    double = recorded_double(embed_s=0.05)
    double.script = lambda _: None
    async with gateway_before(double, tmp_path, slots=1) as bench:
        single = []
        for text in TEXTS:
            answer = await bench.ask("POST", "/api/embed", {"model": "embed", "input": text}, ("Cache-Control", "no-store"))
            single.append(json.loads(answer.body))
        before = double.statistics().requests["POST /api/embed"]
        merged = [json.loads(answer.body) for answer in await embeds_behind_a_busy_model(bench, [{"input": t} for t in TEXTS])]
        assert double.statistics().requests["POST /api/embed"] == before + 1
        assert [answer["embeddings"] for answer in merged] == [answer["embeddings"] for answer in single]
        counts = [sum(answer["prompt_eval_count"] for answer in answers) for answers in (merged, single)]
        assert counts[0] == counts[1]


async def test_57_one_that_is_too_long_is_the_only_400(tmp_path: Path, autojump_clock: Clock) -> None:
    double = Double(RECORDED_MODELS, DoubleOptions(embed_s=0.05))
    async with gateway_before(double, tmp_path, slots=1) as bench:
        long = " ".join(["word"] * 10_000)
        bodies = [{"input": text, "truncate": False} for text in ("a", long, "d")]
        answers = await embeds_behind_a_busy_model(bench, bodies)
        assert [status_of(answer) for answer in answers] == [200, 400, 200]
        assert "context length" in error_of(answers[1])
        assert head_of(answers[0], "content-type") == head_of(answers[2], "content-type")
