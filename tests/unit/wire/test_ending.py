"""What the end of an answer says of it, in every face."""

from __future__ import annotations

import json

import pytest

from supervisord_ai.wire.ending import ended_at_length, served_model


def native(reason: str = "stop", model: str = "m") -> bytes:
    first = {"model": model, "response": "length", "done": False}
    return b"".join(json.dumps(line).encode() + b"\n" for line in (first, {"model": model, "done": True, "done_reason": reason}))


def single(reason: str = "stop") -> bytes:
    return json.dumps({"model": "m", "choices": [{"finish_reason": reason, "message": {"content": "length"}}]}).encode()


def chunks(reason: str = "stop") -> bytes:
    said = [{"model": "m", "choices": [{"delta": {"content": "length"}}]}, {"model": "m", "choices": [{"finish_reason": reason}]}]
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said) + b"data: [DONE]\n\n"


def anthropic(reason: str = "end_turn") -> bytes:
    said = [
        {"type": "message_start", "message": {"model": "m", "stop_reason": None}},
        {"type": "message_delta", "delta": {"stop_reason": reason}},
    ]
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in said)


@pytest.mark.parametrize(
    ("body", "is_lines", "at_length"),
    [
        (native(), True, False),
        (native("length"), True, True),
        (single(), False, False),
        (single("length"), False, True),
        (chunks(), False, False),
        (chunks("length"), False, True),
        (anthropic(), False, False),
        (anthropic("max_tokens"), False, True),
    ],
)
def test_every_face_names_its_model_and_why_it_stopped(body: bytes, is_lines: bool, at_length: bool) -> None:
    assert served_model(body, is_lines=is_lines) == "m"
    assert ended_at_length(body, is_lines=is_lines) is at_length


def test_what_is_no_answer_names_nothing() -> None:
    for body in (b"", b"not json", b"data: [DONE]\n\n", b"[1]\n", b'{"embedding":[1]}\n'):
        assert served_model(body, is_lines=True) is None
        assert served_model(body, is_lines=False) is None
        assert not ended_at_length(body, is_lines=False)
