"""The parts of the faces that no transcript shows, as Ollama's source has them: thinking, tools, images, audio, blobs."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes.ollama_double import Double, DoubleOptions, ModelSpec, embedding_model, running

from .double_bench import ask, exchange, loaded, recorded_double, say
from .golden import parse_answers
from .golden.requests import http, said

Clock = trio.abc.Clock
THINKER = ModelSpec("thinker", capabilities=("completion", "thinking", "tools", "vision"))
ASKED = "[[n=1 think=1 tool=1]]"
TOOL = {"type": "function", "function": {"name": "get_weather"}}


async def events(double: Double, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    (answer,) = parse_answers(await exchange(double, http("POST", path, {**body, "stream": True})))
    data = [line[6:] for line in answer.body.splitlines() if line.startswith(b"data: {")]
    return [json.loads(each) for each in data]


async def test_openai_tells_thinking_as_reasoning_and_arguments_as_text(autojump_clock: Clock) -> None:
    body = {"model": "thinker", "messages": said(ASKED), "tools": [TOOL]}
    async with running(Double([THINKER])) as double:
        _, answer = await ask(double, "POST", "/v1/chat/completions", body)
        deltas = [event["choices"][0]["delta"] for event in await events(double, "/v1/chat/completions", body)]
        _, quiet = await ask(double, "POST", "/v1/chat/completions", {**body, "reasoning_effort": "none"})
        status, _ = await ask(double, "POST", "/v1/chat/completions", {**body, "reasoning_effort": "wild"})
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["reasoning"], choice["message"]["content"]) == ("tool_calls", "t0 ", "w0 ")
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert [sorted(delta) for delta in deltas] == [["reasoning", "role"], ["content"], ["tool_calls"], []]
    assert "reasoning" not in quiet["choices"][0]["message"]
    assert status == 400


async def test_openai_takes_images_as_data_and_no_others(autojump_clock: Clock) -> None:
    async with running(Double([THINKER])) as double:
        for url, status in (("data:image/png;base64,AAAA", 200), ("http://x/y.png", 400), ("data:image/png;base64,!", 400)):
            parts = [{"type": "text", "text": "[[n=1]]"}, {"type": "image_url", "image_url": {"url": url}}]
            body = {"model": "thinker", "messages": [{"role": "user", "content": parts}]}
            assert (await ask(double, "POST", "/v1/chat/completions", body))[0] == status


async def test_openai_options_become_runner_options(autojump_clock: Clock) -> None:
    body = {"model": "tinyllama", "messages": said("[[n=5]]"), "max_tokens": 2, "seed": 1, "stop": "x"}
    async with running(Double()) as double:
        _, answer = await ask(double, "POST", "/v1/chat/completions", {**body, "response_format": {"type": "json_object"}})
        _, completion = await ask(double, "POST", "/v1/completions", {"model": "tinyllama", "prompt": "[[n=5]]", "max_tokens": 2})
        usages = [event["usage"] for event in await events(double, "/v1/completions", {
            "model": "tinyllama", "prompt": "[[n=1]]", "stream_options": {"include_usage": True}})]  # fmt: skip
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 2)
    assert completion["choices"][0]["finish_reason"] == "length"
    assert [usage["completion_tokens"] for usage in usages] == [0, 0, 1]


async def test_anthropic_tells_blocks_in_order_and_drops_thinking_where_there_is_none(autojump_clock: Clock) -> None:
    body = {"model": "thinker", "max_tokens": 99, "messages": said(ASKED), "thinking": {"type": "enabled"},
            "tools": [{"name": "get_weather", "input_schema": {}}], "system": [{"type": "text", "text": "s"}]}  # fmt: skip
    async with running(Double([THINKER, ModelSpec("plain")])) as double:
        _, answer = await ask(double, "POST", "/v1/messages", body)
        told = await events(double, "/v1/messages", body)
        plain = {**body, "model": "plain", "tools": [], "messages": said("[[n=1 think=1]]")}
        _, simple = await ask(double, "POST", "/v1/messages", plain)
        assert (await ask(double, "POST", "/v1/messages", {**plain, "messages": []}))[0] == 400
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]
    assert answer["stop_reason"] == "tool_use"
    starts = [event["content_block"]["type"] for event in told if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    assert [event["index"] for event in told if event["type"] == "content_block_stop"] == [0, 1, 2]
    assert [block["type"] for block in simple["content"]] == ["text"]


async def test_responses_take_a_list_of_items(autojump_clock: Clock) -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "[[n=2]]"}]}]
    body = {"model": "tinyllama", "input": items, "instructions": "s", "max_output_tokens": 1}
    async with running(Double()) as double:
        _, answer = await ask(double, "POST", "/v1/responses", body)
        assert (await ask(double, "POST", "/v1/responses", {"model": "tinyllama", "input": 5}))[0] == 400
    assert answer["output"][0]["content"][0]["text"] == "w0 "


@pytest.mark.parametrize(("form", "wanted"), [("json", {"text": "w0 w1 w2 w3 w4 "}), ("text", "w0 w1 w2 w3 w4 ")])
async def test_audio_is_a_form_with_a_file(form: str, wanted: object, autojump_clock: Clock) -> None:
    def part(name: str, value: str) -> str:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'

    fields = part("model", "tinyllama") + part("response_format", form)
    kind = ("Content-Type", "multipart/form-data; boundary=b")
    async with running(Double()) as double:
        whole = (fields + part("file", "sound") + "--b--\r\n").encode()
        (answer,) = parse_answers(await exchange(double, http("POST", "/v1/audio/transcriptions", whole, kind)))
        (empty,) = parse_answers(await exchange(double, http("POST", "/v1/audio/transcriptions", b"", kind)))
    text = answer.body.decode()
    assert (json.loads(text) if form == "json" else text) == wanted
    assert empty.status.split()[1] == "400"


async def test_a_blob_is_stored_once_and_found(autojump_clock: Clock) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(b'data').hexdigest()}"
    async with running(Double()) as double:
        statuses = [
            parse_answers(await exchange(double, http(method, path, body)))[0].status.split()[1]
            for method, body in (("HEAD", None), ("POST", b"data"), ("POST", b"data"), ("HEAD", None))
        ]
    assert statuses == ["404", "201", "200", "200"]


async def test_a_created_model_has_its_parameters_and_a_deleted_one_is_gone(autojump_clock: Clock) -> None:
    body = {"model": "mine", "from": "tinyllama", "parameters": {"temperature": 0, "stop": ["a", "b"]}, "stream": False}
    async with running(Double()) as double:
        assert (await ask(double, "POST", "/api/create", body))[1] == {"status": "success"}
        _, shown = await ask(double, "POST", "/api/show", {"model": "mine"})
        told = [line.split() for line in shown["parameters"].splitlines()]
        assert told == [["temperature", "0"], ["stop", '"a"'], ["stop", '"b"']]
        assert (await ask(double, "DELETE", "/api/delete", {"model": "mine"}))[0] == 200
        assert (await ask(double, "POST", "/api/show", {"model": "mine"}))[0] == 404
        assert (await ask(double, "POST", "/api/create", {**body, "from": "nope"}))[0] == 404


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"nope": 1, "seed": None}, None),
    ],
)
async def test_an_option_of_a_wrong_type_is_an_error_and_an_unknown_one_is_not(
    options: dict[str, Any], error: str | None, autojump_clock: Clock
) -> None:
    async with running(recorded_double()) as double:
        status, answer = await say(double, options=options)
    assert (status, answer.get("error")) == ((500, error) if error else (200, None))


async def test_a_model_that_does_not_fit_evicts_and_one_that_cannot_load_says_why(autojump_clock: Clock) -> None:
    models = [ModelSpec("a", size_bytes=50), ModelSpec("b", size_bytes=50), ModelSpec("broken", load_error="no such tensor")]
    async with running(Double(models, DoubleOptions(memory_bytes=100))) as double:
        for model in ("a", "b"):
            assert (await say(double, model=model))[0] == 200
        assert await loaded(double) == ["b:latest"]
        assert (await say(double, model="broken"))[:2] == (500, {"error": "no such tensor"})


async def test_an_embedding_model_does_not_generate(autojump_clock: Clock) -> None:
    async with running(Double([embedding_model("e")])) as double:
        assert (await say(double, model="e")) == (400, {"error": '"e" does not support generate'})


async def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "ollama.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with running(Double()) as double, trio.open_nursery() as nursery:
            nursery.start_soon(double.serve_on, listener)
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(http("GET", "/", None, ("Connection", "close")))
                received = b"".join([piece async for piece in stream])
            nursery.cancel_scope.cancel()
    assert received.endswith(b"Ollama is running")


async def test_anthropic_says_no_reason_where_ollama_knows_none(autojump_clock: Clock) -> None:
    body = {"model": "tinyllama", "messages": said("[[n=0 nofinal=1]]"), "max_tokens": 9}
    async with running(Double()) as double:
        status, answer = await ask(double, "POST", "/v1/messages", body)
    assert (status, answer["content"], "stop_reason" in answer) == (200, None, False)
