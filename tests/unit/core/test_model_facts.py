"""What is read of a model out of Ollama's small calls: names, what is in memory, what it can do at once."""

from __future__ import annotations

import pytest

from supervisord_ai.core.calls import Json
from supervisord_ai.core.model_facts import canonical_name, digests_of, facts_of, placed_of, resident_of, serves_one_at_a_time
from supervisord_ai.core.model_health import Placed


def test_all_spellings_of_a_model_meet_and_what_is_none_stays_as_it_is() -> None:
    assert {canonical_name(name) for name in ("Llama3.2", "llama3.2:latest", "library/llama3.2")} == {"llama3.2:latest"}
    assert canonical_name("no name at all") == "no name at all"


def test_every_installed_model_has_its_digest() -> None:
    tags: list[dict[str, Json]] = [{"name": "a:1b", "digest": "d1"}, {"name": "B", "digest": "d2"}, {}]
    assert digests_of(tags) == {"a:1b": "d1", "b:latest": "d2", "": ""}


def test_the_other_tags_of_a_loaded_manifest_are_in_memory_too() -> None:
    digests = {"a:1b": "d1", "a:latest": "d1", "b:latest": "d2", "lost:latest": ""}
    assert resident_of([{"name": "A:1B", "digest": "d1"}], digests) == {"a:1b", "a:latest"}
    assert resident_of([{"name": "a:1b"}], digests) == {"a:1b"}  # an Ollama that names no digest: of that one alone
    assert resident_of([], digests) == frozenset()
    assert resident_of([{}], digests) - {""} == frozenset(), "one that is not named is none that there is"


def test_how_much_of_a_model_is_where_is_read_as_far_as_it_is_told() -> None:
    told: list[dict[str, Json]] = [{"name": "a", "size": 5_000, "size_vram": 3_000}, {"name": "b", "size": "much"}, {}]
    assert placed_of(told) == (Placed("a:latest", 5_000, 3_000), Placed("b:latest", 0, 0), Placed("", 0, 0))


def test_what_a_model_is_comes_from_its_show() -> None:
    facts = facts_of(
        "d1",
        {
            "parameters": "temperature 0.5\nstop \"x\"",
            "capabilities": ["completion", "tools"],
            "remote_host": "https://ollama.com",
            "model_info": {"general.name": "x", "llama.context_length": 8192},
        },
    )
    assert (facts.digest, facts.capabilities) == ("d1", frozenset({"completion", "tools"}))
    assert facts.parameters == {"temperature": 0.5, "stop": ["x"]}
    assert (facts.is_remote, facts.context_length) == (True, 8192)


@pytest.mark.parametrize("show", [{}, {"parameters": 5, "capabilities": "completion", "model_info": []}])
def test_a_show_without_them_is_a_model_of_which_nothing_is_known(show: dict[str, Json]) -> None:
    facts = facts_of("d1", show)
    assert (facts.parameters, facts.capabilities, facts.is_remote, facts.context_length) == ({}, frozenset(), False, None)


def test_a_context_length_that_is_no_number_is_not_known() -> None:
    assert facts_of("d", {"model_info": {"llama.context_length": "many"}}).context_length is None


@pytest.mark.parametrize(
    ("show", "is_alone"),
    [
        ({"capabilities": ["embedding"]}, True),
        ({"capabilities": ["embedding", "completion"]}, False),
        ({"capabilities": ["completion"], "details": {"family": "llama"}}, False),
        ({"capabilities": [], "details": {"family": "mllama"}}, True),
        ({"details": {"family": "nemotron_h_moe"}}, True),
        ({"details": {"family": "llama", "families": ["llama", "qwen3next"]}}, True),
        ({"details": {"family": "llama", "families": None}}, False),
        ({"details": []}, False),
        ({}, False),
    ],
)
def test_ollama_gives_some_models_one_slot_only(show: dict[str, Json], is_alone: bool) -> None:
    assert serves_one_at_a_time(show) is is_alone
