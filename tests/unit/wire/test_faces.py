"""Errors in three dialects, and kept /v1 answers: whole ones only, and made new for each caller."""

from __future__ import annotations

import json

import pytest

from supervisord_ai.core.calls import Face, Op
from supervisord_ai.errors import Refused
from supervisord_ai.wire.faces import error_body, error_line, error_text, refusal, renewed_raw, why_not_kept_raw
from supervisord_ai.wire.sse import EventSplitter, read_event


def test_an_error_has_the_shape_of_the_callers_face() -> None:
    assert error_body(Face.OLLAMA, 404, "model 'x' not found") == (
        "application/json; charset=utf-8",
        b'{"error":"model \'x\' not found"}',
    )
    openai = json.loads(error_body(Face.OPENAI, 404, "nope")[1])
    assert openai == {"error": {"message": "nope", "type": "not_found_error", "param": None, "code": None}}
    anthropic = json.loads(error_body(Face.ANTHROPIC, 503, "busy")[1])
    assert anthropic.pop("request_id").startswith("req_")
    assert anthropic == {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (403, "api_error", "permission_error"),
        (404, "not_found_error", "not_found_error"),
        (429, "api_error", "rate_limit_error"),
        (500, "api_error", "api_error"),
        (503, "api_error", "overloaded_error"),
    ],
)
def test_the_type_of_an_error_follows_its_status_as_in_ollama(status: int, openai: str, anthropic: str) -> None:
    assert json.loads(error_body(Face.OPENAI, status, "x")[1])["error"]["type"] == openai
    assert json.loads(error_body(Face.ANTHROPIC, status, "x")[1])["error"]["type"] == anthropic


def test_an_error_in_a_stream_is_a_frame_its_clients_raise_on() -> None:
    assert error_line(Face.OLLAMA, "cut") == b'{"error":"cut"}\n'
    openai = read_event(error_line(Face.OPENAI, "cut"))
    assert (openai.name, json.loads(openai.data)["error"]["message"]) == ("", "cut")
    anthropic = read_event(error_line(Face.ANTHROPIC, "cut"))
    assert (anthropic.name, json.loads(anthropic.data)["type"]) == ("error", "error")


@pytest.mark.parametrize("text", ["123", "null", '"x"', "[1]", " 5", "true"])
def test_an_error_is_never_bare_json_since_ollama_python_fails_on_it(text: str) -> None:
    said = json.loads(error_body(Face.OLLAMA, 500, text)[1])["error"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(said)
    assert text in said


def test_an_error_of_ten_thousand_brackets_is_still_an_error() -> None:
    assert json.loads(error_body(Face.OLLAMA, 500, "[" * 10_000 + "]" * 10_000)[1])["error"].startswith("error: [")


def test_the_routers_refusals_are_plain_text_as_gin_writes_them() -> None:
    headers, body = refusal("GET", "/nope", Refused(404, "404 page not found"))
    assert (headers, body) == ([("Content-Type", "text/plain")], b"404 page not found")
    headers, body = refusal("GET", "/api/chat", Refused(405, "405 method not allowed", allow="POST"))
    assert (headers, body) == ([("Allow", "POST"), ("Content-Type", "text/plain")], b"405 method not allowed")
    assert refusal("OPTIONS", "/api/chat", Refused(204, "", allow="POST")) == ([("Allow", "POST")], b"")


def test_a_redirect_has_a_page_for_get_and_nothing_for_post() -> None:
    headers, body = refusal("GET", "/api/tags/", Refused(301, "", location="/api/tags"))
    assert headers == [("Location", "/api/tags"), ("Content-Type", "text/html; charset=utf-8")]
    assert body == b'<a href="/api/tags">Moved Permanently</a>.\n\n'
    assert refusal("POST", "/api/chat/", Refused(307, "", location="/api/chat")) == ([("Location", "/api/chat")], b"")
    assert b"&lt;" in refusal("GET", "//<", Refused(307, "", location="/<?a=1&b"))[1]


def test_any_other_refusal_is_in_the_face_of_its_path() -> None:
    assert refusal("POST", "/api/chat", Refused(503, "full"))[1] == b'{"error":"full"}'
    assert b'"api_error"' in refusal("POST", "/v1/chat/completions", Refused(503, "full"))[1]
    assert b'"overloaded_error"' in refusal("POST", "/v1/messages", Refused(503, "full"))[1]


# --- kept /v1 answers -------------------------------------------------------------------------------------------------

COMPLETION = {
    "id": "chatcmpl-252",
    "object": "chat.completion",
    "created": 1,
    "model": "chat",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "w0 "}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}


def chunk(delta: object, finish: str | None = None, model: str = "chat") -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "chatcmpl-255", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM = chunk({"role": "assistant", "content": "w0 "}) + chunk({}, "stop") + DONE
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_b7","model":"chat","content":[]}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
SWALLOWED = chunk({"content": "w2 "}) + chunk({"content": ""}, model="")  # what Ollama makes of an error in the middle


@pytest.mark.parametrize(
    ("op", "body", "why"),
    [
        (Op.CHAT_COMPLETIONS, STREAM, ""),
        (Op.CHAT_COMPLETIONS, SWALLOWED, "it has no final event"),
        (Op.CHAT_COMPLETIONS, STREAM[:-1], "it was cut"),
        (Op.CHAT_COMPLETIONS, b"", "it was cut"),
        (Op.CHAT_COMPLETIONS, chunk({"content": "x"}) + DONE, "the model did not finish"),
        (Op.CHAT_COMPLETIONS, chunk({}, "tool_calls") + DONE, "it calls a tool"),
        (Op.CHAT_COMPLETIONS, b'data: {"error":{}}\n\n' + DONE, "it holds an error"),
        (Op.MESSAGES, ANTHROPIC, ""),
        (Op.MESSAGES, ANTHROPIC.replace(b"end_turn", b"tool_use"), "it calls a tool"),
        (Op.MESSAGES, ANTHROPIC[: ANTHROPIC.rindex(b"event:")], "it has no final event"),
        (Op.RESPONSES, STREAM, "an answer of /v1/responses is somebody's state"),
    ],
)
def test_only_whole_streams_are_kept(op: Op, body: bytes, why: str) -> None:
    assert why_not_kept_raw(op, 200, body, is_stream=True) == why


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_a_stream_cut_at_any_byte_is_not_kept(cut: int) -> None:
    assert why_not_kept_raw(Op.CHAT_COMPLETIONS, 200, STREAM[:cut], is_stream=True)


@pytest.mark.parametrize(
    ("op", "status", "body", "why"),
    [
        (Op.CHAT_COMPLETIONS, 200, json.dumps(COMPLETION), ""),
        (Op.CHAT_COMPLETIONS, 404, json.dumps(COMPLETION), "status 404"),
        (Op.CHAT_COMPLETIONS, 200, json.dumps(COMPLETION)[:-1], "it is not an answer"),
        (Op.CHAT_COMPLETIONS, 200, '{"error":{}}', "it is not an answer"),
        (Op.CHAT_COMPLETIONS, 200, '{"choices":[{"finish_reason":null}]}', "the model did not finish"),
        (Op.COMPLETIONS, 200, '{"choices":[{"finish_reason":"load"}]}', "it loads a model"),
        (Op.MESSAGES, 200, '{"stop_reason":"end_turn"}', ""),
        (Op.MESSAGES, 200, '{"stop_reason":"tool_use"}', "it calls a tool"),
        (Op.V1_EMBEDDINGS, 200, '{"data":[{}]}', ""),
        (Op.V1_EMBEDDINGS, 200, '{"data":[]}', "no embeddings"),
    ],
)
def test_only_whole_bodies_are_kept(op: Op, status: int, body: str, why: str) -> None:
    assert why_not_kept_raw(op, status, body.encode(), is_stream=False) == why


def test_a_kept_body_is_made_new_for_its_caller() -> None:
    body = json.dumps(COMPLETION).encode() + b"\n"
    made = renewed_raw(body, is_stream=False, model="CHAT", created=99, new_id="7")
    assert json.loads(made) == {**COMPLETION, "id": "chatcmpl-7", "created": 99, "model": "CHAT"}
    assert made.endswith(b"\n")


def test_a_kept_stream_is_made_new_in_every_event() -> None:
    made = renewed_raw(STREAM, is_stream=True, model="CHAT", created=99, new_id="7")
    *events, last = [read_event(event) for event in EventSplitter().feed(made)]
    assert last.data == b"[DONE]"
    assert {(e.json or {}).get("id") for e in events} == {"chatcmpl-7"}
    assert b'"model":"chat"' not in made
    assert b"w0 " in made


def test_a_kept_message_gets_a_new_id_where_it_starts() -> None:
    made = renewed_raw(ANTHROPIC, is_stream=True, model="CHAT", created=99, new_id="ab")
    start = read_event(EventSplitter().feed(made)[0])
    assert start.name == "message_start"
    assert json.loads(start.data)["message"] == {"id": "msg_ab", "model": "CHAT", "content": []}
    assert why_not_kept_raw(Op.MESSAGES, 200, made, is_stream=True) == ""


def test_a_plain_message_keeps_its_own_content() -> None:
    body = b'{"id":"msg_1","type":"message","model":"chat","content":[],"stop_reason":"end_turn"}'
    made = json.loads(renewed_raw(body, is_stream=False, model="CHAT", created=9, new_id="2"))
    assert made == {"id": "msg_2", "type": "message", "model": "CHAT", "content": [], "stop_reason": "end_turn"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":"no such model"}', "no such model"),
        (b'{"error":{"message":"no such model","type":"x"}}', "no such model"),
        (b'{"error":{}}', "Ollama answered with an error"),
        (b'{"error":""}', "Ollama answered with an error"),
        (b'{"error":5}', "Ollama answered with an error"),
        (b"{}", "Ollama answered with an error"),
        (b"[]", "Ollama answered with an error"),
        (b"404 page not found", "Ollama answered with an error"),
    ],
)
def test_what_an_error_of_any_face_says_is_found(body: bytes, said: str) -> None:
    assert error_text(body) == said
