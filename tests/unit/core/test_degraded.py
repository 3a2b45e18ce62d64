"""What a level does to one call."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supervisord_ai.core.cache_policy import ModelFacts
from supervisord_ai.core.calls import Call, Pins
from supervisord_ai.core.degraded import bound_of, turned_away, why_it_stays
from supervisord_ai.core.effects import Effects, Level, effects_at
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.gateway.classify import classify
from supervisord_ai.wire.ollama import bounded

MINOR = effects_at(LevelsPolicy(), Level.MINOR)
CRITICAL = effects_at(LevelsPolicy(), Level.CRITICAL)
FACTS = ModelFacts("digest", capabilities=frozenset({"completion", "tools", "vision"}))
THINKER = ModelFacts("digest", capabilities=frozenset({"completion", "thinking"}))
PROMPT = {"/api/generate": {"prompt": "x"}, "/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x"}}
MESSAGES = {"messages": [{"role": "user", "content": "x"}]}


def call(path: str = "/api/chat", **fields: Any) -> Call:
    body = {"model": "m", **PROMPT.get(path, MESSAGES), **fields}
    return classify("POST", path, json.dumps(body).encode(), is_admin_allowed=False, pins=Pins())


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_an_answer_that_nobody_bounded_is_bounded_and_only_that_changes(path: str) -> None:
    asked = call(path, **({"options": {"temperature": 0.7}} if path.startswith("/api/") else {"temperature": 0.7}))
    assert bound_of(asked, FACTS, MINOR) == 256
    sent = bytes(bounded(asked.route.op, asked.upstream_body, 256))
    again = classify("POST", path, sent, is_admin_allowed=False, pins=Pins())
    assert again.num_predict == 256
    fields, before = json.loads(sent), json.loads(bytes(asked.upstream_body))
    if path.startswith("/api/"):
        assert fields["options"].pop("num_predict") == 256
    else:
        fields.pop("max_output_tokens" if path == "/v1/responses" else "max_tokens")
    assert fields == before


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"options": {"num_predict": 1000}}),
        ("/api/chat", {"options": {"num_predict": -1}}),  # as long as it takes: that was asked for
        ("/v1/chat/completions", {"max_tokens": 1000}),
        ("/v1/messages", {"max_tokens": 1000}),
        ("/v1/responses", {"max_output_tokens": 1000}),
        ("/api/chat", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
        ("/api/chat", {"format": "json"}),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}),
        ("/api/chat", {"think": True}),
        ("/v1/chat/completions", {"reasoning_effort": "low"}),
    ],
)
def test_what_was_bounded_or_would_be_useless_when_cut_is_left_alone(path: str, fields: dict[str, Any]) -> None:
    assert bound_of(call(path, **fields), FACTS, MINOR) is None


def test_a_model_that_thinks_by_itself_is_bounded_only_where_it_is_told_not_to() -> None:
    assert bound_of(call(), THINKER, MINOR) is None
    assert bound_of(call(think=False), THINKER, MINOR) == 256
    assert bound_of(call("/v1/chat/completions", reasoning_effort="none"), THINKER, MINOR) == 256


def test_a_bound_in_the_modelfile_was_asked_for() -> None:
    assert bound_of(call(), ModelFacts("digest", parameters={"num_predict": 2000}), MINOR) is None


def test_nothing_is_bounded_at_level_0_nor_without_knowing_the_model() -> None:
    assert bound_of(call(), FACTS, Effects()) is None
    assert bound_of(call(), None, MINOR) is None


def test_an_embedding_and_a_load_have_nothing_to_bound() -> None:
    assert bound_of(call("/v1/embeddings", input="x"), FACTS, MINOR) is None
    assert bound_of(call("/api/chat", messages=[]), FACTS, MINOR) is None


@pytest.mark.parametrize(("priority", "is_let_in"), [(1, True), (3, True), (4, False), (10, False)])
def test_at_level_3_only_urgent_requests_are_let_in(priority: int, is_let_in: bool) -> None:
    refused = turned_away(CRITICAL, priority, lifts_in_s=17.2)
    assert (refused is None) is is_let_in
    if refused is not None:
        assert (refused.status, refused.retry_after_s) == (503, 18.0)
        assert refused.message.startswith("level 3 (critical): only priorities up to 3 are let in")
    for level in (Level.NORMAL, Level.MINOR, Level.MAJOR):
        assert turned_away(effects_at(LevelsPolicy(), level), 10, lifts_in_s=1.0) is None


def test_who_is_turned_away_below_that_level_is_told_that_memory_is_short() -> None:
    refused = turned_away(Effects(priority_only=3), 4, lifts_in_s=5.0)
    assert refused is not None
    assert refused.message.startswith("memory is short: only priorities up to 3 are let in")


LIGHT = ModelFacts("light", capabilities=frozenset({"completion"}), context_length=4096)
PICTURE = {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions"])
def test_the_light_model_stands_in_for_a_plain_question(path: str) -> None:
    assert why_it_stays(call(path), FACTS, LIGHT, num_ctx=4096) == ""


@pytest.mark.parametrize(
    ("asked", "facts", "light", "why"),
    [
        (call("/api/embed", input="x"), FACTS, LIGHT, "it is no question to a model"),
        (call("/api/chat", messages=[]), FACTS, LIGHT, "it is no question to a model"),
        (call(), FACTS, None, "one of the models is not installed, or not known"),
        (call(), None, LIGHT, "one of the models is not installed, or not known"),
        (call(), LIGHT, LIGHT, "it asks for the light model"),
        (call("/api/generate", raw=True), FACTS, LIGHT, "its prompt is in the form of its own model"),
        (call("/api/generate", context=[1, 2]), FACTS, LIGHT, "its prompt is in the form of its own model"),
        (call(), FACTS, replace(LIGHT, is_remote=True), "its prompt is in the form of its own model"),
        (call("/api/chat", **PICTURE), FACTS, LIGHT, "the light model lacks vision"),
        (call("/api/chat", **TOOLS), FACTS, LIGHT, "the light model lacks tools"),
        (call(), FACTS, replace(LIGHT, capabilities=frozenset()), "the light model lacks completion"),
    ],
)
def test_the_light_model_does_not_stand_in_where_it_could_not_do_what_was_asked(
    asked: Call, facts: ModelFacts | None, light: ModelFacts | None, why: str
) -> None:
    assert why_it_stays(asked, facts, light, num_ctx=4096) == why


def test_what_does_not_fit_into_the_light_model_stays_with_its_own() -> None:
    body = len(call("/api/generate", prompt="x" * 3000).caller_body)
    wanted = body // 3 + 512
    assert why_it_stays(call("/api/generate", prompt="x" * 3000), FACTS, LIGHT, num_ctx=wanted) == ""
    words = f"it may need {wanted} tokens, and the light model has room for {wanted - 1}"
    assert why_it_stays(call("/api/generate", prompt="x" * 3000), FACTS, LIGHT, num_ctx=wanted - 1) == words
    # The smaller of what it was trained for and what it is run with; nothing known of either is no room.
    assert why_it_stays(call(), FACTS, replace(LIGHT, context_length=100), num_ctx=4096).endswith("room for 100")
    assert why_it_stays(call(), FACTS, replace(LIGHT, context_length=None), num_ctx=None).endswith("room for 0")
    assert why_it_stays(call(), FACTS, replace(LIGHT, context_length=None), num_ctx=4096) == ""


def test_a_bounded_answer_needs_the_room_it_was_bounded_to() -> None:
    asked = call(options={"num_predict": 2000})
    wanted = len(asked.caller_body) // 3 + 2000
    assert why_it_stays(asked, FACTS, LIGHT, num_ctx=wanted) == ""
    assert why_it_stays(asked, FACTS, LIGHT, num_ctx=wanted - 1) != ""


def test_an_answer_that_may_take_as_long_as_it_takes_needs_as_much_room_as_one_that_nobody_bounded() -> None:
    endless = call(options={"num_predict": -1})
    wanted = len(endless.caller_body) // 3 + 512
    assert why_it_stays(endless, FACTS, LIGHT, num_ctx=wanted) == ""
    assert why_it_stays(endless, FACTS, LIGHT, num_ctx=wanted - 1) != ""


def test_a_very_long_prompt_fits_into_no_light_model() -> None:
    wide = replace(LIGHT, context_length=10_000_000)
    around = len(call("/api/generate", prompt="").caller_body)
    longest = "x" * (1_000_000 - around)
    assert why_it_stays(call("/api/generate", prompt=longest), FACTS, wide, num_ctx=None) == ""
    assert "it may need" in why_it_stays(call("/api/generate", prompt=longest + "x"), FACTS, wide, num_ctx=None)
