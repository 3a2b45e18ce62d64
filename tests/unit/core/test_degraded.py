"""What a level does to one call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisord_ai.core.cache_policy import ModelFacts
from supervisord_ai.core.calls import Call, Pins
from supervisord_ai.core.degraded import bound_of, turned_away
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
