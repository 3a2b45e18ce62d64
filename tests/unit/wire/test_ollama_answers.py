"""Native answers: joined as Ollama joins them, kept only when whole, replayed as if made for this caller."""

from __future__ import annotations

import json
import math
from typing import cast

import pytest

from supervisord_ai.core.calls import Body, Json, JsonObject, Op
from supervisord_ai.wire.json_go import decode, encode, encode_members
from supervisord_ai.wire.ndjson import write_line
from supervisord_ai.wire.ollama import (
    Assembler,
    as_single,
    as_stream,
    asked_of,
    join_lines,
    keep_alive_json,
    load_request,
    probe_request,
    single_of,
    unload_body,
    unload_request,
    why_not_kept,
)

AT = "2026-11-23T09:31:00.838762064Z"
METRICS: JsonObject = {
    "total_duration": 26696133,
    "load_duration": 1990730,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 12500000,
    "eval_count": 2,
    "eval_duration": 50000000,
}

NOT_FROM_HERE = "it did not come from a model here"


def generated(text: str, **more: Json) -> JsonObject:
    return {"model": "chat", "created_at": AT, "response": text, "done": False, **more}


def chatted(text: str, **more: Json) -> JsonObject:
    message: Json = {"role": "assistant", "content": text, **cast("JsonObject", more.pop("message", {}))}
    return {"model": "chat", "created_at": AT, "message": message, "done": False, **more}


GENERATE = [generated("é漢"), generated("w1 "), generated("", done=True, done_reason="stop", context=[1, 2], **METRICS)]
CHAT = [chatted("w0 "), chatted("w1 "), chatted("", done=True, done_reason="stop", **METRICS)]


def joined(lines: list[JsonObject]) -> JsonObject:
    assembler = Assembler()
    for line in lines:
        assembler.feed(line)
    return assembler.result()


def test_a_generate_is_its_last_line_with_all_texts() -> None:
    whole = {"model": "chat", "created_at": AT, "response": "é漢w1 ", "done": True, "done_reason": "stop", "context": [1, 2]}
    assert joined(GENERATE) == {**whole, **METRICS}


def test_a_chat_is_its_last_line_with_all_contents() -> None:
    result = joined(CHAT)
    assert result["message"] == {"role": "assistant", "content": "w0 w1 "}
    assert {name: result[name] for name in METRICS} == METRICS


def test_thinking_tool_calls_and_logprobs_of_all_lines_come_in_order() -> None:
    first: Json = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"z": 1, "a": 2}}}
    second: Json = {"id": "call_2", "function": {"index": 1, "name": "g", "arguments": {}}}
    result = joined(
        [
            chatted("", message={"thinking": "hm"}, logprobs=[{"token": "a"}]),
            chatted("", message={"thinking": "m.", "tool_calls": [first]}),
            chatted("x", message={"tool_calls": [second]}, logprobs=[{"token": "b"}]),
            chatted("", done=True, done_reason="stop"),
        ]
    )
    assert result["message"] == {"role": "assistant", "content": "x", "thinking": "hmm.", "tool_calls": [first, second]}
    assert result["logprobs"] == [{"token": "a"}, {"token": "b"}]
    assert encode(result).index(b'"z"') < encode(result).index(b'"a":2')


def test_the_thinking_of_a_generate_is_a_field_of_its_own() -> None:
    result = joined([generated("", thinking="a"), generated("x", thinking="b"), generated("", done=True, done_reason="stop")])
    assert (result["response"], result["thinking"]) == ("x", "ab")


def test_a_stream_without_a_final_line_is_a_body_that_is_not_done() -> None:
    result = joined([generated("w0 "), generated("w1 ")])
    assert result == {"model": "chat", "created_at": AT, "response": "w0 w1 ", "done": False}


def test_an_error_line_is_not_part_of_the_answer() -> None:
    assembler = Assembler()
    for line in (generated("w0 "), cast("JsonObject", {"error": "unexpected EOF"})):
        assembler.feed(line)
    assert assembler.error == "unexpected EOF"
    assert not assembler.is_done


def test_no_line_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no line"):
        Assembler().result()


# --- kept and replayed ------------------------------------------------------------------------------------------------


def kept(lines: list[JsonObject]) -> bytes:
    return join_lines([write_line(line).strip() for line in lines])


@pytest.mark.parametrize("lines", [GENERATE, CHAT])
def test_a_replayed_stream_says_the_same_under_the_callers_name_and_time(lines: list[JsonObject]) -> None:
    replayed = [json.loads(line) for line in as_stream(kept(lines), "CHAT", "2027-01-01T00:00:00Z", 5)]
    for line, original in zip(replayed, lines, strict=True):
        assert line["model"] == "CHAT"
        assert line["created_at"] == "2027-01-01T00:00:00Z"
        changed = {"model", "created_at", "total_duration", "load_duration"}
        assert {k: v for k, v in line.items() if k not in changed} == {k: v for k, v in original.items() if k not in changed}
    assert replayed[-1]["total_duration"] == 5
    assert replayed[-1]["load_duration"] > 0
    assert replayed[-1]["eval_duration"] == METRICS["eval_duration"]
    assert "total_duration" not in replayed[0]


@pytest.mark.parametrize("lines", [GENERATE, CHAT])
def test_a_replayed_body_equals_the_joined_stream(lines: list[JsonObject]) -> None:
    body = as_single(kept(lines), "chat", AT, 26696133)
    assert json.loads(body) == {**joined(lines), "load_duration": 1}
    assert not body.endswith(b"\n")


def test_a_kept_embed_is_replayed_as_one_body() -> None:
    embed: JsonObject = {"model": "embed", "embeddings": [[0.16329932, 1e-7]], "total_duration": 9, "prompt_eval_count": 1}
    legacy: JsonObject = {"embedding": [2.0, 11.0]}
    assert json.loads(as_single(kept([embed]), "EMBED", AT, 7)) == {**embed, "model": "EMBED", "total_duration": 7}
    assert json.loads(as_single(kept([legacy]), "EMBED", AT, 7)) == legacy


@pytest.mark.parametrize(
    ("op", "status", "lines", "why"),
    [
        (Op.GENERATE, 200, GENERATE, ""),
        (Op.CHAT, 200, CHAT, ""),
        (Op.CHAT, 200, CHAT[:-1], "it has no final line"),
        (Op.CHAT, 500, CHAT, "status 500"),
        (Op.CHAT, 200, [], "no answer"),
        (Op.CHAT, 200, [*CHAT, {"error": "x"}], "it holds an error"),
        (Op.CHAT, 200, [chatted("", message={"tool_calls": [{}]}), CHAT[-1]], "it calls a tool"),
        (Op.GENERATE, 200, [generated("", done=True, tool_calls=[{}])], "it calls a tool"),
        (Op.GENERATE, 200, [generated("", done=True, done_reason="load")], "it loads a model"),
        (Op.CHAT, 200, [chatted("", done=True, done_reason="unload")], "it loads a model"),
        (Op.CHAT, 200, [chatted("", done=True, remote_host="https://ollama.com")], NOT_FROM_HERE),
        (Op.GENERATE, 200, [generated("", _debug_info={})], NOT_FROM_HERE),
        (Op.EMBED, 200, [{"embeddings": [[1.0]]}], ""),
        (Op.EMBED, 200, [{"embeddings": []}], "no embeddings"),
        (Op.EMBEDDINGS, 200, [{"embedding": [1.0]}], ""),
        (Op.EMBEDDINGS, 200, [{"embedding": []}], "no embedding"),
    ],
)
def test_only_whole_answers_of_a_local_model_are_kept(op: Op, status: int, lines: list[JsonObject], why: str) -> None:
    assert why_not_kept(op, status, lines) == why


# --- our own calls and answers ----------------------------------------------------------------------------------------


def test_an_unload_without_effect_reads_like_one_with() -> None:
    assert json.loads(unload_body(Op.GENERATE, "chat", AT)) == {
        "model": "chat",
        "created_at": AT,
        "response": "",
        "done": True,
        "done_reason": "unload",
    }
    assert json.loads(unload_body(Op.CHAT, "chat", AT))["message"] == {"role": "assistant", "content": ""}


def test_a_load_carries_the_pins_and_an_embedding_model_is_loaded_by_embed() -> None:
    path, body = load_request("m", is_embedding=False, num_ctx=4096, keep_alive_s=1800.0)
    assert path == "/api/generate"
    assert json.loads(body) == {"model": "m", "options": {"num_ctx": 4096}, "keep_alive": 1800}
    assert load_request("m", is_embedding=True, num_ctx=None, keep_alive_s=float("inf")) == (
        "/api/embed",
        b'{"model":"m","keep_alive":-1}',
    )
    assert unload_request("m") == ("/api/generate", b'{"model":"m","keep_alive":0}')


def test_a_kept_answer_is_one_body_for_who_comes_back_to_it() -> None:
    lines = b"\n".join(encode(line) for line in GENERATE)
    assert decode(single_of(lines)) == joined(GENERATE)


def test_a_body_can_be_asked_of_another_model_and_says_nothing_else_anew() -> None:
    body = Body(members=encode_members({"model": "a", "prompt": "p", "options": {"seed": 1}}))
    assert decode(asked_of(body, "b")) == {"model": "b", "prompt": "p", "options": {"seed": 1}}
    assert decode(asked_of(Body(members=None), "b")) == {"model": "b"}


@pytest.mark.parametrize(("seconds", "said"), [(1800.0, 1800), (0.5, 0.5), (0.0, 0), (math.inf, -1)])
def test_a_keep_alive_is_written_as_ollama_reads_it(seconds: float, said: float) -> None:
    assert keep_alive_json(seconds) == said
    assert type(keep_alive_json(seconds)) is type(said)


def test_a_load_without_pins_leaves_them_to_ollama() -> None:
    assert load_request("m", is_embedding=False, num_ctx=None, keep_alive_s=None) == ("/api/generate", b'{"model":"m"}')


def test_a_probe_speaks_for_a_while_with_the_pins_of_its_model() -> None:
    path, body = probe_request("m", is_embedding=False, num_ctx=4096, keep_alive_s=1800.0)
    said = decode(body)
    assert isinstance(said, dict)
    assert (path, said["model"], said["stream"], said["keep_alive"]) == ("/api/generate", "m", True, 1800)
    assert said["options"] == {"num_ctx": 4096, "num_predict": 32, "temperature": 0}
    path, body = probe_request("m", is_embedding=True, num_ctx=None, keep_alive_s=None)
    assert (path, decode(body)) == ("/api/embed", {"model": "m", "input": "probe", "options": {}})
