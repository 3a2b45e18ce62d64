"""What a body asks of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisord_ai.core.calls import Matched, Route, find_route
from supervisord_ai.engine.asked import (
    Fields,
    Message,
    read_body,
    read_chat,
    read_format,
    read_generate,
    read_inputs,
    read_options,
    refuse_what_it_cannot,
    require_model,
)
from supervisord_ai.engine.openai import read_chat_completion, read_embedding_inputs
from supervisord_ai.errors import Refused


def route(path: str) -> Route:
    found = find_route("POST", path)
    assert isinstance(found, Matched)
    return found.route


def fields(path: str, **values: Any) -> Fields:
    return read_body(route(path), json.dumps(values).encode())


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        call(*args, **kwargs)
    return caught.value.status, caught.value.message


def test_ollamas_defaults_are_not_llama_cpps() -> None:
    assert read_options({})["top_p"] == 0.9
    assert read_options({})["min_p"] == 0.0
    assert read_options({})["n_predict"] == -1


def test_options_are_translated_and_unknown_ones_change_nothing() -> None:
    given = read_options({"num_predict": 7.0, "temperature": 0, "stop": ["x"], "num_ctx": 9, "surprise": [], "seed": None})
    assert (given["n_predict"], given["temperature"], given["stop"], given["seed"]) == (7, 0, ["x"], -1)
    assert given == {**read_options({}), "n_predict": 7, "temperature": 0, "stop": ["x"]}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": "x"}, 'option "temperature" must be of type float32'),
        ({"seed": "x"}, 'option "seed" must be of type integer'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_an_option_of_the_wrong_type_is_a_500_in_ollamas_words(options: dict[str, Any], text: str) -> None:
    assert refused(read_options, options) == (500, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("xml", 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        (5, 'invalid format: "5"; expected "json" or a valid JSON Schema object'),
        ([], 'invalid format: "[]"; expected "json" or a valid JSON Schema object'),
    ],
)
def test_a_format_that_is_none_is_a_500_in_ollamas_words(value: Any, text: str) -> None:
    assert refused(read_format, value) == (500, text)


def test_a_format_becomes_a_schema() -> None:
    assert read_format("") == {}
    assert read_format("json") == {"json_schema": {}}
    assert read_format({"type": "object"}) == {"json_schema": {"type": "object"}}


def test_a_generate_becomes_a_conversation_unless_it_is_raw() -> None:
    want = read_generate(fields("/api/generate", prompt="hi", system="be brief", keep_alive="1m", context=[1, 2]))
    assert want.messages == (Message("system", "be brief"), Message("user", "hi"))
    assert (want.prompt, want.keep_alive_s, want.context) == (None, 60.0, (1, 2))
    raw = read_generate(fields("/api/generate", prompt="hi", raw=True))
    assert (raw.prompt, raw.messages) == ("hi", ())
    assert refused(read_generate, fields("/api/generate", prompt="hi", raw=True, system="x")) == (
        400,
        "raw mode does not support template, system, or context",
    )


def test_roles_are_lower_cased_and_no_content_is_empty() -> None:
    want = read_chat(fields("/api/chat", messages=[{"role": "USER", "content": "a"}, {"role": "assistant", "content": None}]))
    assert want.messages == (Message("user", "a"), Message("assistant", ""))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"think": True}, '"m" does not support thinking'),
        ({"tools": [{"type": "function"}]}, "registry.ollama.ai/library/smollm2:135m does not support tools"),
        ({"logprobs": True}, "this engine gives no logprobs"),
    ],
)
def test_what_it_cannot_do_is_refused_and_not_passed_over(values: dict[str, Any], text: str) -> None:
    assert refused(refuse_what_it_cannot, fields("/api/chat", **values), "m", "smollm2:135m") == (400, text)


def test_what_changes_nothing_is_accepted() -> None:
    refuse_what_it_cannot(fields("/api/chat", tools=[], think=False, options={"num_gpu": 0}), "m", "smollm2:135m")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        *(("smollm2:135m", 0), ("SmolLM2:135M", 0), ("registry.ollama.ai/library/smollm2:135m", 0), ("smollm2:135m:local", 0)),
        *(("smollm2", 404), ("nope", 404), ("", 404), ("foo bar", 400), ("smollm2:135m-cloud", 403)),
    ],
)
def test_one_model_is_served_under_every_spelling_of_its_name(asked: str, status: int) -> None:
    missing = Refused(404, "empty")
    if status:
        assert refused(require_model, asked, "smollm2:135m", empty=missing, missing="missing")[0] == status
    else:
        require_model(asked, "smollm2:135m", empty=missing, missing="missing")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b'{"model":', "unexpected EOF"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b'{"stream":"x"}', "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool"),
        (b'{"keep_alive":"5"}', 'time: missing unit in duration "5"'),
    ],
)
def test_a_bad_body_is_a_400_in_gos_words(body: bytes, text: str) -> None:
    assert refused(read_body, route("/api/chat"), body) == (400, text)


def test_openais_defaults_names_and_content_in_parts() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = fields("/v1/chat/completions", messages=[{"role": "user", "content": content}], max_tokens=9, stop="x")
    want = read_chat_completion(asked)
    assert want.messages == (Message("user", "ab"),)
    assert want.parameters["temperature"] == want.parameters["top_p"] == 1.0
    assert (want.parameters["n_predict"], want.parameters["stop"]) == (9, ["x"])
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    shaped = fields("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], response_format=schema)
    assert read_chat_completion(shaped).parameters["json_schema"] == {"type": "object"}
    assert refused(read_chat_completion, fields("/v1/chat/completions")) == (400, "[] is too short - 'messages'")


def test_inputs_of_the_two_embed_routes_differ_in_what_is_empty() -> None:
    assert read_inputs(None) == read_inputs("") == read_inputs([]) == []
    assert read_inputs(["a", ""]) == ["a", ""]
    assert refused(read_inputs, ["a", 5]) == refused(read_inputs, 5) == (400, "invalid input type")
    assert read_embedding_inputs(fields("/v1/embeddings", input="")) == [""]
    assert refused(read_embedding_inputs, fields("/v1/embeddings", input=[])) == (400, "invalid input")
