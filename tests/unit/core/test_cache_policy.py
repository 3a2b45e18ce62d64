"""The canonical form, piece by piece: what makes two calls one, and what keeps them two."""

from __future__ import annotations

import hashlib

import pytest

from supervisord_ai.core.cache_policy import (
    KNOWN_OPTIONS,
    Freshness,
    ModelFacts,
    Private,
    Shareable,
    Usable,
    canonical,
    hash_of,
    key_of,
    unknown_digest,
    usable,
)
from supervisord_ai.core.calls import Json, JsonObject, Op
from tests.unit.gateway.test_cache_keys import BASES, FACTS, call_of

CHAT = frozenset({"messages", "options", "system", "temperature", "top_p", "frequency_penalty", "presence_penalty"})
IMAGES = {"cG5n": "digest of a picture", "anBn": "digest of another"}


def form(**fields: Json) -> JsonObject:
    return canonical(Op.CHAT, fields, known=CHAT, images=IMAGES)


def test_the_form_is_the_same_in_every_release_or_all_that_was_kept_is_lost() -> None:
    assert hash_of(["ä", {"a": 1}]) == hashlib.sha256('["ä",{"a":1}]'.encode()).digest()


@pytest.mark.parametrize(
    "more",
    [
        {"content": "q"},
        {"thinking": "hm"},
        {"images": ["cG5n"]},
        {"images": ["anBn"]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"tool_calls": [{"function": {"name": "g", "arguments": {}}}]},
        {"tool_name": "f"},
        {"tool_call_id": "1"},
        {"role": "tool"},
    ],
)
def test_each_part_of_a_message_is_a_part_of_the_key(more: JsonObject) -> None:
    plain: JsonObject = {"role": "user", "content": "p"}
    assert form(messages=[{**plain, **more}]) != form(messages=[plain])
    assert form(messages=[{**plain, **more}]) == form(messages=[{**plain, **more}])


def test_a_message_counts_with_its_role_in_small_letters_and_its_pictures_by_their_digests() -> None:
    message: JsonObject = {"role": "User", "content": "", "images": ["cG5n", "anBn"], "tool_calls": [{"function": {"name": "f"}}]}
    small: JsonObject = {"role": "user", "images": [*IMAGES.values()], "tool_calls": [{"function": {"name": "f"}}]}
    assert form(messages=[message]) == {"messages": [small]}


@pytest.mark.parametrize("name", ["temperature", "top_p", "frequency_penalty", "presence_penalty"])
def test_the_numbers_of_openai_count_as_the_float32_that_ollama_makes_of_them(name: str) -> None:
    assert form(**{name: 0.7}) == form(**{name: 0.70000001}) != form(**{name: 0.71})
    assert form(**{name: 1e39}) == {name: "inf"}
    assert form(**{name: -1e39}) == {name: "-inf"}


def test_what_is_empty_is_as_good_as_absent() -> None:
    assert form(system="", messages=[], options={}) == form() == {}


def test_what_no_table_knows_has_a_digest_by_its_value_and_nothing_has_none() -> None:
    known = frozenset({"model", "messages", "options"})
    plain: JsonObject = {"model": "m", "messages": [{"role": "user"}], "options": dict.fromkeys(KNOWN_OPTIONS, 1)}
    assert unknown_digest(Op.CHAT, plain, known=known) == b""
    found = {unknown_digest(Op.CHAT, {**plain, "new": value}, known=known) for value in (1, 2, "1")}
    assert len(found - {b""}) == 3


def test_the_version_whose_fields_are_known_is_read_with_and_without_a_patch() -> None:
    body = BASES["/api/chat"]
    plain, extended = call_of("/api/chat", body), call_of("/api/chat", {**body, "min_tokens": 3})
    for version, is_other in (("0.33", False), ("0.33.1-rc.2", False), ("0.34", True), ("0.34.1-rc.2", True)):
        said = {"ollama_version": version, "scope": "shared", "local_date": "x"}
        assert (key_of(plain, FACTS, **said) != key_of(extended, FACTS, **said)) is is_other


@pytest.mark.parametrize(("seed", "is_fixed"), [(2**32 - 2, True), (2**32 - 1, False), (2**32 + 5, True), (2**33 - 1, False)])
def test_a_seed_counts_as_the_32_bits_that_the_engine_keeps_of_it(seed: int, is_fixed: bool) -> None:
    facts = ModelFacts("sha256:aaaa", parameters={"seed": seed})
    found = key_of(
        call_of("/api/generate", {"model": "m", "prompt": "p"}), facts, ollama_version="0.33.0", scope="s", local_date="x"
    )
    assert isinstance(found, Shareable if is_fixed else Private)


def test_an_answer_is_fresh_to_its_last_moment() -> None:
    assert usable(0.0, 10.0, 9.5, Freshness()) == Usable(0.5)
    assert usable(0.0, 10.0, 10.0, Freshness()) is None
