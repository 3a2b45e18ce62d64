"""The cache key, from the request to the 32 bytes: everything an answer depends on changes it, and nothing else does."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.cache_policy import (
    KNOWN_OPTIONS,
    RUNNER_OPTIONS,
    Freshness,
    ModelFacts,
    NotCanonical,
    Private,
    Shareable,
    Usable,
    canonical,
    key_of,
    parse_parameters,
    usable,
)
from supervisord_ai.core.calls import Call, Form, Json, JsonObject, ModelPins, Op, Pins
from supervisord_ai.gateway.classify import classify
from supervisord_ai.wire.json_go import encode
from supervisord_ai.wire.messages import STRUCTS

PINS = Pins(ModelPins(4096, 1800.0))
FACTS = ModelFacts("sha256:aaaa")
PNG, JPG = base64.b64encode(b"png").decode(), base64.b64encode(b"jpg!").decode()

BASES: dict[str, JsonObject] = {
    "/api/generate": {"model": "m", "prompt": "p", "options": {"temperature": 0}},
    "/api/chat": {"model": "m", "messages": [{"role": "user", "content": "p"}], "options": {"temperature": 0}},
    "/api/embed": {"model": "m", "input": ["a", "b"]},
    "/api/embeddings": {"model": "m", "prompt": "p"},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "p"}], "temperature": 0},
    "/v1/completions": {"model": "m", "prompt": "p", "temperature": 0},
    "/v1/embeddings": {"model": "m", "input": "c"},
    "/v1/messages": {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "p"}], "temperature": 0},
}
# What each known field may be changed to; each value is a different request from the base and from the others.
CHANGES: dict[str, list[Json]] = {
    "prompt": ["q", "P"],
    "suffix": ["x"],
    "system": ["s"],
    "template": ["t"],
    "context": [[1, 2], [2, 1], []],
    "raw": [True],
    "format": ["json", {}, {"a": 1, "b": 2}, {"b": 2, "a": 1}],
    "images": [[PNG], [JPG], [None, PNG], [PNG, JPG], [JPG, PNG]],
    "options": [
        {"temperature": 0, "seed": 1},
        {"temperature": 0, "num_predict": 5},
        {"temperature": 0, "num_keep": 5},
        {"temperature": 0, "stop": ["a", "b"]},
        {"temperature": 0, "stop": ["b", "a"]},
        {"temperature": 0, "top_p": 0.5},
        {"seed": 7},
        {"seed": 7, "temperature": 0.7},
    ],
    "think": [True, False, "medium"],
    "truncate": [True, False],
    "shift": [True],
    "logprobs": [True],
    "top_logprobs": [3],
    "messages": [
        [{"role": "user", "content": "q"}],
        [{"role": "system", "content": "p"}],
        [{"role": "user", "content": "p"}, {"role": "user", "content": "p"}],
    ],
    "tools": [[{"type": "function", "function": {"name": "f"}}], [{"function": {"name": "f"}, "type": "function"}]],
    "input": [["b", "a"], ["a"], "b"],
    "stream": [True],
    "dimensions": [3],
    "stream_options": [{"include_usage": True}],
    "max_tokens": [7],
    "seed": [1, 2],
    "stop": ["x", ["x"], []],
    "temperature": [-1],
    "frequency_penalty": [0.5],
    "presence_penalty": [0.5],
    "top_p": [0.5],
    "top_k": [3],
    "response_format": [{"type": "json_object"}],
    "reasoning": [{"effort": "low"}],
    "reasoning_effort": ["low"],
    "encoding_format": ["base64"],
    "stop_sequences": [["x"]],
    "tool_choice": [{"type": "none"}],
    "thinking": [{"type": "enabled"}],
    "output_config": [{"effort": "low"}],
}
CHANGES_OF: dict[tuple[Op, str], list[Json]] = {
    (Op.COMPLETIONS, "logprobs"): [3],
    (Op.GENERATE, "truncate"): [True],  # False is what the gateway asks for anyhow
    (Op.CHAT, "truncate"): [True],
    (Op.EMBED, "options"): [{"seed": 1}],
    (Op.EMBEDDINGS, "options"): [{"seed": 1}],
}
NOT_IN_THE_KEY = {"model", "name", "keep_alive", "metadata", "_debug_render_only"}


def call_of(path: str, body: JsonObject, pins: Pins = PINS) -> Call:
    return classify("POST", path, encode(body), is_admin_allowed=False, pins=pins)


def key(path: str, body: JsonObject, pins: Pins = PINS, facts: ModelFacts = FACTS) -> bytes:
    found = key_of(call_of(path, body, pins), facts, ollama_version="0.33.0", scope="shared", local_date="2026-11-23")
    assert isinstance(found, Shareable), found
    return found.key


@pytest.mark.parametrize("path", BASES)
def test_changing_any_known_field_changes_the_key(path: str) -> None:
    base = BASES[path]
    op = call_of(path, base).route.op
    left_out = NOT_IN_THE_KEY | ({"stream"} if path.startswith("/api/") else set())
    seen = {key(path, base): "the base"}
    for name in sorted(STRUCTS[op].fields.keys() - left_out):
        for value in CHANGES_OF.get((op, name)) or CHANGES[name]:
            found = key(path, {**base, name: value})
            assert found not in seen, f"{name}={value} has the key of {seen[found]}"
            seen[found] = f"{name}={value}"


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_changing_any_known_option_changes_the_key(path: str) -> None:
    seen = {key(path, BASES[path])}
    for name in sorted(KNOWN_OPTIONS - RUNNER_OPTIONS - {"temperature"}):
        value: Json = ["x"] if name == "stop" else 3
        found = key(path, {**BASES[path], "options": {"temperature": 0, name: value}})
        assert found not in seen, name
        seen.add(found)


@pytest.mark.parametrize("path", BASES)
def test_what_an_answer_does_not_depend_on_leaves_the_key_alone(path: str) -> None:
    base = BASES[path]
    same: list[JsonObject] = [
        {**base, "user": "me"},
        {**base, "model": "M:latest"},
        dict(reversed(base.items())),
        {key.upper(): value for key, value in base.items()},
    ]
    if path.startswith("/api/"):
        same += [{**base, "stream": True}, {**base, "stream": False}, {**base, "keep_alive": "9m"}, {**base, "keep_alive": 0}]
    if path == "/v1/messages":
        same.append({**base, "metadata": {"user_id": "me"}})
    assert {key(path, body) for body in same} == {key(path, base)}


def test_what_ollama_takes_for_the_same_has_the_same_key() -> None:
    def chat(message: JsonObject, **more: Json) -> bytes:
        return key("/api/chat", {"model": "m", "messages": [cast("Json", message)], "options": {"temperature": 0}, **more})

    base = chat({"role": "user", "content": "p"})
    assert chat({"role": "USER", "content": "p", "images": None, "thinking": ""}) == base
    assert chat({"content": "p", "role": "user", "unknown": 1}) == base
    assert chat({"role": "user", "content": "p"}, tools=[], format="", top_logprobs=0, logprobs=False) == base
    assert chat({"role": "user", "content": "p"}, options={"temperature": 0.0, "seed": None, "NUM_CTX": 5, "num_gpu": 9}) == base
    assert chat({"role": "user", "content": "p"}, options={"temperature": 0, "top_k": 40.9}) == chat(
        {"role": "user", "content": "p"}, options={"temperature": 0, "top_k": 40}
    )
    listed: JsonObject = {"model": "m", "input": ["a"]}
    assert key("/api/embed", {"model": "m", "input": "a"}) == key("/api/embed", listed)


@given(st.text(min_size=1), st.text(min_size=1), st.permutations(["model", "prompt", "options", "stream"]))
def test_another_prompt_is_another_key_and_another_order_of_fields_is_not(one: str, other: str, order: list[str]) -> None:
    body: JsonObject = {"model": "m", "prompt": one, "options": {"temperature": 0}, "stream": False}
    assert key("/api/generate", {name: body[name] for name in order}) == key("/api/generate", body)
    assert (key("/api/generate", {**body, "prompt": other}) == key("/api/generate", body)) is (one == other)


@given(st.floats(min_value=0.01, max_value=1, allow_nan=False))
def test_floats_count_as_the_float32_ollama_makes_of_them(value: float) -> None:
    narrow = struct.unpack("<f", struct.pack("<f", value))[0]
    body = BASES["/api/chat"]
    assert key("/api/chat", {**body, "options": {"seed": 1, "top_p": value}}) == key(
        "/api/chat", {**body, "options": {"seed": 1, "top_p": narrow}}
    )


def test_two_writings_of_one_image_are_one_image() -> None:
    def with_image(image: Json) -> bytes:
        return key("/api/generate", {**BASES["/api/generate"], "images": [image]})

    assert with_image(PNG) == with_image(PNG[:2] + "\n" + PNG[2:]) == with_image([*b"png"])
    assert with_image("aGk=") == with_image("aGl=")  # the last two bits are nobody's
    assert with_image(PNG) != with_image(JPG)


def test_the_granted_runner_options_are_in_the_key_and_the_asked_are_not() -> None:
    base = BASES["/api/generate"]
    asked: JsonObject = {**base, "options": {"temperature": 0, "num_ctx": 8192}}
    assert key("/api/generate", asked) == key("/api/generate", base)
    assert key("/api/generate", base, Pins(ModelPins(8192, 1800.0))) != key("/api/generate", base)
    assert key("/api/generate", base, Pins(ModelPins(4096, 60.0))) == key("/api/generate", base)


def test_model_version_scope_and_date_are_in_the_key() -> None:
    call = call_of("/api/generate", BASES["/api/generate"])
    said = {"ollama_version": "0.33.0", "scope": "shared", "local_date": "2026-11-23"}
    found = [key_of(call, facts, **said) for facts in (FACTS, ModelFacts("sha256:bbbb"))]
    found += [key_of(call, FACTS, **{**said, name: "x"}) for name in said]
    assert len({f.key for f in found if isinstance(f, Shareable)}) == 5


@pytest.mark.parametrize("version", ["0.34.0", "1.0.0", "0.100.0-rc1", "nightly", ""])
@pytest.mark.parametrize(
    "more",
    [
        {"min_tokens": 3},
        {"options": {"temperature": 0, "mirostat": 2}},
        {"messages": [{"role": "user", "content": "p", "audio": "x"}]},
    ],
)
def test_an_ollama_newer_than_the_tables_may_know_what_they_do_not(version: str, more: JsonObject) -> None:
    body = BASES["/api/chat"]
    plain, extended = call_of("/api/chat", body), call_of("/api/chat", {**body, **more})
    for ollama_version, is_other in ((version, True), ("0.33.9", False), ("0.30.0-rc2", False)):
        said = {"ollama_version": ollama_version, "scope": "shared", "local_date": "x"}
        assert (key_of(plain, FACTS, **said) != key_of(extended, FACTS, **said)) is is_other


def test_the_faces_do_not_share_answers() -> None:
    prompt: JsonObject = {"model": "m", "prompt": "p"}
    assert key("/api/embeddings", prompt) != key("/api/embed", {"model": "m", "input": "p"})
    chat = BASES["/v1/chat/completions"]
    native: JsonObject = {"model": "m", "messages": chat["messages"], "options": {"temperature": 0}}
    assert key("/v1/chat/completions", chat) != key("/api/chat", native)


# --- what may be shared at all ------------------------------------------------------------------------------------------


def verdict(path: str, body: JsonObject, parameters: JsonObject | None = None) -> str:
    facts = replace(FACTS, parameters=parameters or {})
    found = key_of(call_of(path, body), facts, ollama_version="0", scope="shared", local_date="2026-11-23")
    return found.why if isinstance(found, Private) else ""


RANDOM = "no fixed seed, and the temperature is above 0"


@pytest.mark.parametrize(
    ("options", "modelfile", "why"),
    [
        ({}, {}, RANDOM),  # Ollama's default is 0.8
        ({"temperature": 0}, {}, ""),
        ({"temperature": 0.8}, {}, RANDOM),
        ({}, {"temperature": 0}, ""),
        ({"temperature": 0.8}, {"temperature": 0}, RANDOM),
        ({"temperature": 0}, {"temperature": 0.8}, ""),
        ({"temperature": None}, {"temperature": 0}, ""),
        ({"seed": 42}, {}, ""),
        ({"seed": 0}, {}, ""),
        ({"seed": -1}, {}, RANDOM),
        ({"seed": 0xFFFFFFFF}, {}, RANDOM),  # llama.cpp's word for "choose one"
        ({}, {"seed": 42}, ""),
        ({"seed": -1}, {"seed": 42}, RANDOM),
        ({"temperature": "0"}, {}, "option temperature has the wrong type"),
        ({"temperature": 1e39}, {"temperature": 0}, RANDOM),
        ({"TEMPERATURE": 0}, {}, RANDOM),  # no option of that name
    ],
)
def test_only_what_is_deterministic_is_shared(options: JsonObject, modelfile: JsonObject, why: str) -> None:
    for path in ("/api/generate", "/api/chat"):
        assert verdict(path, {**BASES[path], "options": options}, modelfile) == why


def test_openais_temperature_is_1_where_none_is_given_whatever_the_modelfile_says() -> None:
    body = {name: value for name, value in BASES["/v1/chat/completions"].items() if name != "temperature"}
    assert verdict("/v1/chat/completions", body, {"temperature": 0}) == RANDOM
    assert verdict("/v1/chat/completions", {**body, "seed": 3}) == ""
    message = {name: value for name, value in BASES["/v1/messages"].items() if name != "temperature"}
    assert verdict("/v1/messages", message, {"temperature": 0}) == ""  # Anthropic's leaves it to the Modelfile


def test_embeddings_are_always_shared() -> None:
    for path in ("/api/embed", "/api/embeddings", "/v1/embeddings"):
        assert verdict(path, BASES[path]) == ""


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/api/generate", {"model": "m"}, "it loads or unloads a model"),
        ("/api/chat", {"model": "m", "messages": [], "keep_alive": 0}, "it loads or unloads a model"),
        ("/api/generate", {"model": "m", "prompt": "p", "_debug_render_only": True}, "it renders a prompt"),
        ("/v1/responses", {"model": "m", "input": "p", "temperature": 0}, "an answer of /v1/responses is somebody's state"),
    ],
)
def test_what_is_never_kept_says_why(path: str, body: JsonObject, why: str) -> None:
    assert verdict(path, body) == why


def test_a_model_that_is_not_known_or_not_here_shares_nothing() -> None:
    call = call_of("/api/embed", BASES["/api/embed"])
    said = {"ollama_version": "0", "scope": "shared", "local_date": "x"}
    assert key_of(call, None, **said) == Private("the model's digest is not known")
    assert key_of(call, ModelFacts(""), **said) == Private("the model's digest is not known")
    assert key_of(call, ModelFacts("sha256:1", is_remote=True), **said) == Private("the model runs on another machine")


def test_native_answers_are_kept_as_lines_and_the_others_as_sent() -> None:
    for path, body in BASES.items():
        basis = call_of(path, body).cache_key
        assert basis is not None
        assert basis.form is (Form.LINES if path.startswith("/api/") else Form.RAW)


def test_the_parameters_of_a_modelfile_are_read_as_show_prints_them() -> None:
    text = 'temperature                    0\nstop                           "<|eot|>"\nstop   "a b"\nnum_ctx  2048\nx'
    assert parse_parameters(text) == {"temperature": 0, "stop": ["<|eot|>", "a b"], "num_ctx": 2048, "x": ""}
    assert parse_parameters("") == {}
    assert parse_parameters("\n  \nseed 1\n\n") == {"seed": 1}
    assert json.dumps(parse_parameters('stop "\\n"')) == '{"stop": ["\\n"]}'


def test_how_fresh_a_kept_answer_is_follows_the_level_and_its_callers_own_bound() -> None:
    fresh = Freshness()
    assert usable(100.0, 200.0, 150.0, fresh) == Usable(50.0)
    assert usable(100.0, 200.0, 200.0, fresh) is None
    assert usable(100.0, 200.0, 250.0, Freshness(ttl_factor=2.0)) == Usable(50.0)
    stale = usable(100.0, 200.0, 250.0, Freshness(allow_stale=True))
    assert stale == Usable(-50.0)
    assert stale.is_stale
    assert Usable(0.0).is_stale
    assert not Usable(0.1).is_stale
    assert usable(100.0, 200.0, 150.0, fresh, max_age_s=50.0) == Usable(50.0)
    assert usable(100.0, 200.0, 150.0, fresh, max_age_s=49.0) is None
    assert usable(100.0, 200.0, 250.0, Freshness(allow_stale=True), max_age_s=10.0) is None


def test_after_a_clock_that_was_set_back_an_answer_of_the_future_is_fresh_until_its_end() -> None:
    assert usable(100.0, 200.0, 50.0, Freshness(), max_age_s=0.0) == Usable(150.0)


@pytest.mark.parametrize("option", [{"stop": "x"}, {"stop": ["x", 1]}, {"seed": "1"}, {"seed": True}, {"top_p": "x"}])
def test_an_option_of_the_wrong_type_makes_an_answer_private(option: JsonObject) -> None:
    body = BASES["/api/chat"] | {"options": {"temperature": 0} | option}
    found = key_of(call_of("/api/chat", body), FACTS, ollama_version="0.33.0", scope="shared", local_date="2026-11-23")
    assert found == Private(f"option {next(iter(option))} has the wrong type")


def test_an_option_of_the_runner_is_told_apart_by_its_value_and_has_its_type() -> None:
    """The gateway takes these off what it keeps; what a caller comes back with is compared with them."""
    known = frozenset({"options"})
    assert canonical(Op.CHAT, {"options": {"use_mmap": True}}, known=known, images={}) == {"options": {"use_mmap": True}}
    with pytest.raises(NotCanonical, match="option use_mmap has the wrong type"):
        canonical(Op.CHAT, {"options": {"use_mmap": 1}}, known=known, images={})
