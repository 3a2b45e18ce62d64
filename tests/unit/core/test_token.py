"""A token names one generation of one agent, and nobody makes one without the secret."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from supervisord_ai.core.token import looks_like_token, read_token, token_for

SECRET = b"s" * 32
names = st.from_regex(r"[A-Za-z0-9._-]{1,32}", fullmatch=True)


@given(names, st.integers(0, 10**12))
def test_a_token_says_who_it_is_for(agent: str, generation: int) -> None:
    token = token_for(SECRET, agent, generation)
    assert read_token(SECRET, token) == (agent, generation)
    assert looks_like_token(token)
    assert not set(token) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@given(names, st.integers(0, 1000), st.binary(min_size=16, max_size=32))
def test_another_secret_makes_another_token(agent: str, generation: int, other: bytes) -> None:
    assume(other != SECRET)
    assert read_token(SECRET, token_for(other, agent, generation)) is None


@given(names, st.integers(1, 1000), st.data())
def test_no_single_character_may_differ(agent: str, generation: int, data: st.DataObject) -> None:
    token = token_for(SECRET, agent, generation)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.characters(exclude_characters=token[at]))
    assert read_token(SECRET, token[:at] + char + token[at + 1 :]) is None


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert read_token(SECRET, text) is None
    assert read_token(SECRET, "ais1." + text) is None


FORGED = ["ais1.a.1", "ais1.a.+1.x", "ais1.a.1 .x", "ais1..1.", "ais1.a.٣.x", "ais1.a." + "9" * 5000 + ".x"]


@pytest.mark.parametrize("forged", FORGED)
def test_odd_numbers_are_no_generation(forged: str) -> None:
    assert read_token(SECRET, forged) is None


def test_a_dot_in_the_name_does_not_move_the_border() -> None:
    assert read_token(SECRET, token_for(SECRET, "a.7", 1)) == ("a.7", 1)
    assert read_token(SECRET, token_for(SECRET, "a", 7).replace("ais1.a.7", "ais1.a.07")) is None


def test_a_generation_has_eighteen_digits_at_most() -> None:
    assert read_token(SECRET, token_for(SECRET, "a", 10**18 - 1)) == ("a", 10**18 - 1)
    assert read_token(SECRET, token_for(SECRET, "a", 10**18)) is None


@pytest.mark.parametrize("forged", ["ais1.a.1.\udc80", "ais1.\udc80.1.x"])
def test_bytes_that_are_no_text_are_no_token_and_no_error(forged: str) -> None:
    assert read_token(SECRET, forged) is None


@pytest.mark.parametrize("made_up", ["ollama", "sk-none", "", "x" * 200])
def test_a_key_made_up_for_an_sdk_is_no_attempt(made_up: str) -> None:
    assert not looks_like_token(made_up)
