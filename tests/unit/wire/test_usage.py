"""How many tokens an answer took, read off its end."""

from __future__ import annotations

import json

import pytest

from supervisord_ai.wire.usage import generated_tokens


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"response":"a","done":false}\n{"done":true,"prompt_eval_count":9,"eval_count":5,"eval_duration":1}\n', 5),
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":7,"total_tokens":8}}', 7),
        (b'data: {"usage":{"completion_tokens": 3}}\n\ndata: [DONE]\n\n', 3),
        (b'data: {"usage":{"output_tokens":1}}\n\nevent: message_delta\ndata: {"usage":{"output_tokens":12}}\n\n', 12),
        (b'{"embeddings":[[0.1]],"prompt_eval_count":4}', 0),
        (b"", 0),
    ],
)
def test_each_face_says_it_in_its_last_frame(body: bytes, tokens: int) -> None:
    assert generated_tokens(body) == tokens


def test_a_model_that_writes_about_counts_is_not_believed() -> None:
    said = json.dumps({"response": '"eval_count":999', "done": True, "eval_count": 2})
    assert generated_tokens(said.encode()) == 2
    assert generated_tokens(json.dumps({"response": '"eval_count":999'}).encode()) == 0


def test_only_the_end_of_a_long_answer_is_read() -> None:
    assert generated_tokens(b'{"eval_count":1}' + b" " * 10_000) == 0
