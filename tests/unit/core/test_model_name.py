"""Which model a name means, and what is none."""

from __future__ import annotations

import pytest

from supervisord_ai.core.model_name import BadName, CloudName, ModelName, NoName, read_name

INVALID = BadName("invalid model name")


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        ("llama3.2", "llama3.2:latest"),
        (" Llama3.2:3B ", "llama3.2:3b"),
        ("registry.ollama.ai/library/llama3.2", "llama3.2:latest"),
        ("mine/llama3.2", "mine/llama3.2:latest"),
        ("host:5000/mine/llama3.2:3b", "host:5000/mine/llama3.2:3b"),
        ("http://host:5000/mine/llama3.2", "host:5000/mine/llama3.2:latest"),
        ("llama3.2:local", "llama3.2:latest"),
        ("llama3.2:3b:local", "llama3.2:3b"),
    ],
)
def test_a_name_is_completed_to_the_one_that_ollama_lists(asked: str, canonical: str) -> None:
    assert read_name(asked) == ModelName(canonical)


@pytest.mark.parametrize("asked", ["gpt-oss:120b-cloud", "gpt-oss:cloud", "gpt-oss:120b:CLOUD", "mine/gpt-oss:120b-Cloud"])
def test_a_prompt_that_would_leave_the_machine_is_known_by_its_models_name(asked: str) -> None:
    assert read_name(asked) == CloudName()


@pytest.mark.parametrize("asked", ["gpt-cloud", "host:5000/mine/gpt-cloud"])
def test_cloud_in_the_name_of_a_model_is_no_tag_and_stays_here(asked: str) -> None:
    assert read_name(asked) == ModelName(f"{asked}:latest")


@pytest.mark.parametrize("asked", ["m:local:cloud", "m:cloud:local", "m:local-cloud", ":local:cloud"])
def test_a_model_is_here_or_in_the_cloud_and_not_both(asked: str) -> None:
    assert read_name(asked) == BadName(f'use either :local or :cloud, not both: "{asked}"')


@pytest.mark.parametrize("asked", [":cloud", "a b", "-m", "n:1/m", "a/b/c/m", "a://b://host/n/m", "m:", "m:/cloud", "x" * 81])
def test_what_is_no_name_is_said_to_be_none(asked: str) -> None:
    assert read_name(asked) == INVALID


def test_nothing_is_no_name_and_has_words_of_its_own_elsewhere() -> None:
    assert read_name(" ") == NoName()
