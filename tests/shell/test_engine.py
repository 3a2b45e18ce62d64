"""The engine over connections in memory, in virtual time: slots, residency, leavers, and its answers in three dialects."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from supervisord_ai.clock import VirtualClock
from supervisord_ai.engine.api import Api, Served, shape
from supervisord_ai.engine.generation import PROMPT_STEP_TOKENS, Generator
from supervisord_ai.engine.gguf import Weights
from supervisord_ai.engine.ledger import Ledger, LedgerSummary, summarise
from supervisord_ai.engine.residency import DEFAULT_KEEP_ALIVE_S, Residency
from supervisord_ai.engine.slots import Slots
from supervisord_ai.ollama.client import OllamaClient, Reply
from supervisord_ai.ollama.streams import ByteStream
from supervisord_ai.serve.connection import memory_pair
from supervisord_ai.serve.http import Bounds, serve_connection
from tests.fakes.llama import FakeLlama

MODEL = "smollm2:135m"
SECRET = "open sesame"
WEIGHTS = Weights(Path("/m.gguf"), 100, 1_800_000_000.5, "d" * 64, {"general.architecture": "llama"}, 134_515_008)
CONTEXT_TOKENS = 2000
EMBED_TOKENS = 50


class Bench:
    """One engine with a llama that counts, and a client that knows the secret."""

    def __init__(self, nursery: trio.Nursery, llama: FakeLlama, ledger: Path, slots: int) -> None:
        self.nursery = nursery
        self.llama = llama
        self.ledger_path = ledger
        self.ledger = Ledger(ledger, run="test")
        clock = VirtualClock()
        self.residency = Residency(llama.load, llama.unload, clock.monotonic)
        self.slots = Slots(slots)
        generator = Generator(
            llama, self.slots, self.residency, clock.monotonic, context_tokens=CONTEXT_TOKENS, embed_tokens=EMBED_TOKENS
        )
        served = Served(MODEL, WEIGHTS, CONTEXT_TOKENS)
        self.api = Api(served, generator, self.ledger, clock, secret=SECRET, rng=random.Random(1))
        self.client = OllamaClient("http://127.0.0.1:11434", dial=self.dial, connections=50, secret=SECRET)
        nursery.start_soon(self.residency.run)

    async def dial(self) -> ByteStream:
        client, served = memory_pair("memory-unix")

        async def serve() -> None:
            await serve_connection(served, self.api.handle, Bounds(), shape=shape)

        self.nursery.start_soon(serve)
        return client

    async def ask(self, path: str, **payload: Any) -> tuple[int, bytes]:
        async with self.open(path, **payload) as reply:
            return reply.status, await whole(reply)

    async def json(self, path: str, **payload: Any) -> Any:
        status, body = await self.ask(path, **payload)
        assert status == 200, body
        return json.loads(body)

    async def lines(self, path: str, **payload: Any) -> list[dict[str, Any]]:
        status, body = await self.ask(path, **payload)
        assert status == 200, body
        assert body.endswith(b"\n")
        return [json.loads(line) for line in body.splitlines()]

    @asynccontextmanager
    async def open(self, path: str, **payload: Any) -> AsyncIterator[Reply]:
        async with self.client.open("POST", path, body=json.dumps({"model": MODEL, **payload}).encode()) as reply:
            yield reply

    async def get(self, path: str) -> Any:
        async with self.client.open("GET", path) as reply:
            return json.loads(await whole(reply))

    def counted(self) -> LedgerSummary:
        return summarise(self.ledger_path.read_text().splitlines())


async def whole(reply: Reply) -> bytes:
    body = b""
    while (chunk := await reply.next_chunk()) is not None:
        body += chunk
    return body


@pytest.fixture
async def bench(nursery: trio.Nursery, tmp_path: Path) -> Bench:
    return Bench(nursery, FakeLlama(), tmp_path / "ledger", slots=2)


def say(text: str = "hi") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- answers ------------------------------------------------------------------------------------------------------------


async def test_a_chat_streams_a_line_a_token_and_ends_with_its_metrics(bench: Bench, autojump_clock: MockClock) -> None:
    *lines, last = await bench.lines("/api/chat", messages=say())
    assert [line["message"] for line in lines] == [{"role": "assistant", "content": f"w{n} "} for n in range(5)]
    assert not any(line["done"] for line in lines)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
    assert (last["prompt_eval_count"], last["eval_count"], last["eval_duration"]) == (len("user: hi\n"), 5, 50_000_000)
    assert last["load_duration"] == pytest.approx(1e9, rel=0.05)
    assert last["total_duration"] == pytest.approx(1.059e9, rel=0.05)


async def test_one_body_has_the_text_of_the_stream_and_echoes_the_callers_name(bench: Bench, autojump_clock: MockClock) -> None:
    body = await bench.json("/api/generate", model="SmolLM2:135M", prompt="hi", stream=False)
    assert (body["model"], body["response"], body["done"]) == ("SmolLM2:135M", "w0 w1 w2 w3 w4 ", True)
    assert body["context"] == [*b"user: hi\n", 1, 2, 3, 4, 5]
    raw = await bench.json("/api/generate", prompt="hi", stream=False, raw=True)
    assert "context" not in raw
    assert raw["prompt_eval_count"] == 2


async def test_an_answer_that_reached_num_predict_says_length(bench: Bench, autojump_clock: MockClock) -> None:
    body = await bench.json("/api/chat", messages=say(), stream=False, options={"num_predict": 3})
    assert (body["done_reason"], body["eval_count"]) == ("length", 3)


async def test_openais_stream_has_a_role_once_a_finish_the_usage_and_done(bench: Bench, autojump_clock: MockClock) -> None:
    _, body = await bench.ask("/v1/chat/completions", messages=say(), stream=True, stream_options={"include_usage": True})
    events = body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "w0 "}
    assert chunks[1]["choices"][0]["delta"] == {"content": "w1 "}
    assert (chunks[-2]["choices"][0]["delta"], chunks[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert chunks[-1]["usage"] == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_embeddings_have_length_one_except_on_the_old_route(bench: Bench, autojump_clock: MockClock) -> None:
    assert (await bench.json("/api/embed", input=["a", "b"]))["embeddings"] == [[0.6, 0.8, 0.0]] * 2
    assert (await bench.json("/api/embed", input="a", dimensions=1))["embeddings"] == [[1.0]]
    assert (await bench.json("/api/embeddings", prompt="a"))["embedding"] == [3.0, 4.0, 0.0]
    plain = (await bench.json("/v1/embeddings", input="a"))["data"][0]["embedding"]
    coded = (await bench.json("/v1/embeddings", input="a", encoding_format="base64"))["data"][0]["embedding"]
    assert list(struct.unpack("<3f", base64.b64decode(coded))) == pytest.approx(plain)


async def test_a_text_too_long_to_embed_is_cut_unless_that_is_forbidden(bench: Bench, autojump_clock: MockClock) -> None:
    long = "x" * (EMBED_TOKENS + 1)
    assert (await bench.json("/api/embed", input=long))["prompt_eval_count"] == EMBED_TOKENS
    status, body = await bench.ask("/api/embed", input=long, truncate=False)
    assert (status, json.loads(body)) == (400, {"error": "the input length exceeds the context length"})


@pytest.mark.parametrize(
    ("path", "payload", "status", "error"),
    [
        ("/api/chat", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/chat", {"model": ""}, 400, "model is required"),
        ("/api/generate", {"model": ""}, 404, "model '' not found"),
        ("/api/embed", {"model": "nope"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/embeddings", {"model": ""}, 400, "model is required"),
        ("/api/show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("/api/chat", {"model": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ("/api/chat", {"messages": say(), "options": {"seed": "x"}}, 500, 'option "seed" must be of type integer'),
        ("/api/chat", {"stream": 1}, 400, "json: cannot unmarshal number into Go struct field ChatRequest.stream of type bool"),
        ("/api/chat", {"messages": say(), "think": True}, 400, f'"{MODEL}" does not support thinking'),
        ("/api/chat", {"messages": say(), "tools": [{}]}, 400, f"registry.ollama.ai/library/{MODEL} does not support tools"),
        ("/api/generate", {"suffix": "x"}, 400, f"registry.ollama.ai/library/{MODEL} does not support insert"),
        ("/api/generate", {"template": "x"}, 400, "this engine uses the model's own template and takes no other"),
        ("/api/chat", {"messages": say(), "logprobs": True}, 400, "this engine gives no logprobs"),
        ("/api/pull", {}, 501, "this engine has one built-in model: it cannot pull, create, copy or delete any"),
    ],
)
async def test_refusals_are_in_ollamas_words(  # noqa: PLR0917 - pytest passes them by name
    bench: Bench, autojump_clock: MockClock, path: str, payload: dict[str, Any], status: int, error: str
) -> None:
    assert await bench.ask(path, **payload) == (status, json.dumps({"error": error}, separators=(",", ":")).encode())
    assert bench.llama.loads == 0


async def test_an_error_of_the_v1_face_has_its_shape(bench: Bench, autojump_clock: MockClock) -> None:
    status, body = await bench.ask("/v1/chat/completions", model="nope", messages=say())
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("path", "payload", "message"),
    [
        ("/v1/embeddings", {"input": []}, "invalid input"),
        ("/v1/embeddings", {"input": ["a", 1]}, "invalid input"),
        (
            "/v1/embeddings",
            {"input": "a", "encoding_format": "hex"},
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
            "invalid message format",
        ),
    ],
)
async def test_what_the_v1_face_cannot_read_is_the_callers_fault(
    bench: Bench, autojump_clock: MockClock, path: str, payload: dict[str, Any], message: str
) -> None:
    status, body = await bench.ask(path, **payload)
    assert (status, json.loads(body)["error"]["message"]) == (400, message)
    assert bench.llama.loads == 0


async def test_a_v1_chat_may_come_in_parts_and_may_ask_for_json(bench: Bench, autojump_clock: MockClock) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    asked = {"messages": [{"role": "user", "content": parts}], "response_format": {"type": "json_object"}}
    body = await bench.json("/v1/chat/completions", **asked)
    assert body["usage"]["prompt_tokens"] == len("user: hi\n")
    assert bench.llama.parameters[-1]["json_schema"] == {}


async def test_a_v1_stream_without_a_word_says_its_role_all_the_same(
    nursery: trio.Nursery, tmp_path: Path, autojump_clock: MockClock
) -> None:
    bench = Bench(nursery, FakeLlama(words=0), tmp_path / "ledger", slots=2)
    _, body = await bench.ask("/v1/chat/completions", messages=say(), stream=True)
    first, last, done, _ = body.decode().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "stop"
    assert done == "data: [DONE]"


async def test_an_embedding_of_nothing_loads_the_model_and_is_empty(bench: Bench, autojump_clock: MockClock) -> None:
    assert await bench.json("/api/embeddings", prompt="") == {"embedding": []}
    assert bench.llama.loads == 1


async def test_its_other_pages_are_those_of_an_ollama(bench: Bench, autojump_clock: MockClock) -> None:
    async with bench.client.open("GET", "/") as reply:
        assert (reply.status, await whole(reply)) == (200, b"Ollama is running")
    assert await bench.get("/api/status") == {"cloud": {"disabled": True, "source": "config"}}
    assert (await bench.get(f"/v1/models/{MODEL}"))["id"] == MODEL
    assert (await bench.get("/v1/models/other"))["error"]["message"] == "model 'other' not found"


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("GET", "/api//tags?x=1", 307, ("Location", "/api/tags?x=1")),
        ("GET", "/api/tags/", 301, ("Location", "/api/tags")),
        ("GET", "/api/chat", 405, ("Allow", "POST")),
        ("GET", "/api/nothing", 404, None),
        ("POST", "/v1/completions", 501, None),
    ],
)
async def test_what_is_asked_for_elsewhere_or_otherwise_is_told(  # noqa: PLR0917 - pytest passes them by name
    bench: Bench, autojump_clock: MockClock, method: str, path: str, status: int, header: tuple[str, str] | None
) -> None:
    body = json.dumps({"model": MODEL, "prompt": "hi"}).encode() if method == "POST" else b""
    async with bench.client.open(method, path, body=body) as reply:
        assert reply.status == status
        assert header is None or reply.headers.get(header[0]) == header[1]


async def test_nobody_without_the_secret_is_answered(bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    stranger = OllamaClient("http://127.0.0.1:11434", dial=bench.dial, secret="wrong")
    assert (await stranger.request_json("GET", "/api/tags", timeout_s=5))[0] == 401


async def test_what_the_model_is_can_be_asked_without_loading_it(bench: Bench, autojump_clock: MockClock) -> None:
    assert (await bench.get("/api/tags"))["models"][0]["digest"] == "d" * 64
    assert (await bench.get("/v1/models"))["data"][0]["id"] == MODEL
    assert (await bench.json("/api/show"))["details"]["parameter_size"] == "134.52M"
    assert bench.llama.loads == 0


# --- failures -----------------------------------------------------------------------------------------------------------


async def test_a_failure_before_the_first_token_has_a_status(bench: Bench, autojump_clock: MockClock) -> None:
    bench.llama.fail_after = 0
    status, body = await bench.ask("/api/chat", messages=say())
    assert (status, b"unexpected EOF" in body) == (500, True)
    assert bench.counted().errors == 1


async def test_a_failure_in_the_middle_ends_the_stream_with_an_error_line(bench: Bench, autojump_clock: MockClock) -> None:
    bench.llama.fail_after = 2
    lines = await bench.lines("/api/chat", messages=say())
    assert [*(list(line) for line in lines)][-1] == ["error"]
    assert not any(line.get("done") for line in lines)
    status, _ = await bench.ask("/api/chat", messages=say(), stream=False)
    assert status == 500
    assert bench.counted().errors == 2
    assert bench.slots.busy == 0


# --- slots --------------------------------------------------------------------------------------------------------------


async def test_two_run_at_once_and_the_others_wait_in_the_order_they_came(
    bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ended: list[int] = []

    async def one(number: int) -> None:
        await bench.json("/api/chat", messages=say(f"{number}"), stream=False)
        ended.append(number)

    async with trio.open_nursery() as callers:
        for number in range(6):
            callers.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
    assert bench.llama.peak == 2
    assert sorted(ended[:2]) == [0, 1]
    assert sorted(ended[2:4]) == [2, 3]
    counted = bench.counted()
    assert (counted.calls, counted.ok, counted.peak_in_flight) == (6, 6, 6), "the ledger counts those who wait as well"


async def test_a_leaver_frees_its_slot_and_stays_in_the_ledger_as_such(bench: Bench, autojump_clock: MockClock) -> None:
    bench.llama.words = 1_000_000
    for _ in range(4):
        async with bench.open("/api/chat", messages=say()) as reply:
            assert await reply.next_chunk()
    await trio.testing.wait_all_tasks_blocked()
    assert (bench.slots.busy, bench.llama.busy) == (0, {})
    bench.llama.words = 3
    assert len(await bench.lines("/api/chat", messages=say())) == 4
    assert (bench.counted().left, bench.counted().ok) == (4, 1)


async def test_one_who_leaves_the_line_takes_no_slot(bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    bench.llama.words = 1_000_000
    async with bench.open("/api/chat", messages=say()) as one, bench.open("/api/chat", messages=say()) as two:
        await one.next_chunk()
        await two.next_chunk()
        with trio.move_on_after(0.1):
            await bench.ask("/api/chat", messages=say())
        await trio.testing.wait_all_tasks_blocked()
        assert (bench.slots.busy, bench.slots.waiting) == (2, 0)


async def test_a_long_prompt_is_read_in_steps_so_that_a_leaver_frees_its_slot(bench: Bench, autojump_clock: MockClock) -> None:
    bench.llama.prompt_token_s = 0.01
    await bench.json("/api/generate")  # load
    before = trio.current_time()
    with trio.move_on_after(PROMPT_STEP_TOKENS * 0.01 / 2):
        await bench.ask("/api/chat", messages=say("x" * 5 * PROMPT_STEP_TOKENS))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.slots.busy == 0
    assert trio.current_time() - before < PROMPT_STEP_TOKENS * 0.01
    bench.llama.prompts.clear()
    await bench.json("/api/chat", messages=say("y" * 3 * PROMPT_STEP_TOKENS), stream=False)
    assert [tokens for _, tokens in bench.llama.prompts][:2] == [PROMPT_STEP_TOKENS, 2 * PROMPT_STEP_TOKENS]
    assert len({slot for slot, _ in bench.llama.prompts}) == 1


async def test_a_prompt_goes_to_the_slot_that_knows_its_beginning(bench: Bench, autojump_clock: MockClock) -> None:
    long = "once upon a time " * 20
    await bench.json("/api/chat", messages=say(long), stream=False)
    await bench.json("/api/chat", messages=say("something else"), stream=False)
    bench.llama.prompts.clear()
    await bench.json("/api/chat", messages=say(long + "and on"), stream=False)
    assert len(bench.llama.prompts) == 1, "what the slot has read needs no steps"


async def test_a_prompt_beyond_the_context_keeps_its_beginning_and_its_end(bench: Bench, autojump_clock: MockClock) -> None:
    body = await bench.json("/api/generate", prompt="a" * 10 + "b" * 3000 + "z", raw=True, stream=False, options={"num_keep": 10})
    assert body["prompt_eval_count"] == CONTEXT_TOKENS - 1


# --- residency ----------------------------------------------------------------------------------------------------------


async def test_many_who_come_at_once_share_one_load(bench: Bench, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(lambda: bench.json("/api/chat", messages=say(), stream=False))
    assert bench.llama.loads == 1


async def test_a_caller_that_leaves_does_not_stop_a_load(bench: Bench, autojump_clock: MockClock) -> None:
    with trio.move_on_after(0.5):
        await bench.ask("/api/chat", messages=say())
    await trio.sleep(1.0)
    assert (bench.llama.loads, bench.residency.is_loaded, bench.slots.busy) == (1, True, 0)


async def test_an_idle_model_goes_after_its_keep_alive_and_comes_back_when_asked(bench: Bench, autojump_clock: MockClock) -> None:
    await bench.json("/api/chat", messages=say(), stream=False)
    assert (await bench.get("/api/ps"))["models"][0]["context_length"] == CONTEXT_TOKENS
    await trio.sleep(DEFAULT_KEEP_ALIVE_S + 1)
    assert (await bench.get("/api/ps")) == {"models": []}
    await bench.json("/api/chat", messages=say(), stream=False)
    assert (bench.llama.loads, bench.llama.unloads) == (2, 1)


async def test_the_last_keep_alive_holds_for_everybody_and_negative_is_for_ever(bench: Bench, autojump_clock: MockClock) -> None:
    await bench.json("/api/chat", messages=say(), stream=False, keep_alive="10s")
    await bench.json("/api/chat", messages=say(), stream=False)
    await trio.sleep(11)
    assert bench.llama.unloads == 1
    await bench.json("/api/chat", messages=say(), stream=False, keep_alive=-1)
    await trio.sleep(80_000)
    assert bench.llama.unloads == 1
    assert (await bench.get("/api/ps"))["models"][0]["expires_at"].startswith("2319")


async def test_an_unload_is_answered_at_once_and_waits_for_who_uses_the_model(
    bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bench.llama.words = 100
    async with bench.open("/api/chat", messages=say()) as reply:
        await reply.next_chunk()
        body = await bench.json("/api/generate", keep_alive=0)
        assert (body["done_reason"], body["response"]) == ("unload", "")
        assert bench.llama.unloads == 0
        rest = await whole(reply)
        assert b'"done":true' in rest
    await trio.sleep(0.2)
    assert bench.llama.unloads == 1
    assert bench.counted().calls == 1, "loads and unloads are no calls"


async def test_a_load_answers_when_the_model_is_there(bench: Bench, autojump_clock: MockClock) -> None:
    assert (await bench.json("/api/chat", messages=[]))["done_reason"] == "load"
    assert bench.residency.is_loaded
    assert (await bench.json("/api/embed")) == {"model": MODEL, "embeddings": []}


async def test_a_prompt_with_keep_alive_0_unloads_after_its_answer(bench: Bench, autojump_clock: MockClock) -> None:
    await bench.json("/api/chat", messages=say(), stream=False, keep_alive=0)
    await trio.sleep(0.2)
    assert bench.llama.unloads == 1
