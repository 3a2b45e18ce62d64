"""What an alert may ask, and what is said to whoever asks for something else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.conditions import BadCondition, read_condition
from supervisord_ai.core.figures import FIGURES, Values, find_figure

BACKENDS = ("main", "cpu-box.2")


def holds(text: str, values: Values) -> bool | None:
    return read_condition(text, BACKENDS).holds(values)


def refusal(text: str) -> str:
    with pytest.raises(BadCondition) as caught:
        read_condition(text, BACKENDS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sign", "below", "equal", "above"),
    [
        (">", False, False, True),
        (">=", False, True, True),
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_a_number_is_compared_as_anybody_would(sign: str, below: bool, equal: bool, above: bool) -> None:
    told = [holds(f"queue.oldest_s{sign}60", {"queue.oldest_s": value}) for value in (59.9, 60, 60.1)]
    assert told == [below, equal, above]


def test_a_word_is_compared_with_a_word() -> None:
    assert holds('backend.main.breaker == "open"', {"backend.main.breaker": "open"})
    assert not holds('backend.main.breaker == "open"', {"backend.main.breaker": "half-open"})
    assert holds('backend.cpu-box.2.state != "ready"', {"backend.cpu-box.2.state": "waiting"})


def test_and_binds_before_or() -> None:
    text = "level >= 2 and queue.queued > 5 or agents.quarantined > 0"
    values = {"level": 0.0, "queue.queued": 9.0, "agents.quarantined": 1.0}
    assert holds(text, values)
    assert not holds(text, values | {"agents.quarantined": 0.0})
    assert holds(text, values | {"agents.quarantined": 0.0, "level": 3.0})


def test_what_cannot_be_measured_is_neither_true_nor_false() -> None:
    assert holds("gpu.vram_used > 0.9", {}) is None
    assert holds("gpu.vram_used > 0.9", {"gpu.vram_used": None}) is None
    assert holds("gpu.vram_used > 0.9 and level > 0", {"level": 0.0}) is False
    assert holds("gpu.vram_used > 0.9 and level > 0", {"level": 1.0}) is None
    assert holds("gpu.vram_used > 0.9 or level > 0", {"level": 1.0}) is True
    assert holds("gpu.vram_used > 0.9 or level > 0", {"level": 0.0}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("queue.oldest > 60", "there is no figure `queue.oldest`; did you mean `queue.oldest_s`?"),
        ("level", "cannot be read at `level`"),
        ("level 2", "cannot be read at `level 2`"),
        ("2 <= level", "cannot be read at `2 <= level`"),
        ("level => 2", "cannot be read at `level = >`"),
        ("level > 2 level > 3", "has `level` where `and`, `or` or the end is expected"),
        ("level > 2 and", "cannot be read at `its end`"),
        ("level >= two", "`level` is a number: compare it with one, not with two"),
        ("queue.oldest_s > 60s", "`queue.oldest_s` is a number (in s): compare it with one, not with 60s"),
        ("backend.main.breaker == open", '`backend.main.breaker` is a word: write it in quotes, such as "closed", not open'),
        ('backend.main.breaker == "opened"', "`backend.main.breaker` is never `opened`; did you mean `open`?"),
        ('backend.main.breaker > "open"', "it can be compared by == and !=, not by >"),
        ("backend.mian.busy > 1", "there is no [[ollama]] named `mian`; did you mean `main`?"),
        ("(level > 1)", "cannot be read at `( level >`"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_to_write(text: str, said: str) -> None:
    assert said in refusal(text)


def test_the_figures_of_a_condition_are_told_once_each() -> None:
    condition = read_condition("level > 2 or level < 1 and queue.queued > 0", BACKENDS)
    assert condition.figures == ("level", "queue.queued")


def test_every_figure_can_be_asked_for() -> None:
    for figure in FIGURES:
        name = figure.name.replace("*", "main")
        assert find_figure(name) is not None
        written = f'{name} == "{figure.words[0]}"' if figure.is_word else f"{name} > 0"
        assert read_condition(written, BACKENDS).figures == (name,)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    with suppress(BadCondition):
        read_condition(text, BACKENDS)
