"""docs/reference/ says what the code has: every key, verdict, event, metric and refusal, and nothing else."""

from __future__ import annotations

import pytest

from docs import generate
from supervisord_ai.config.meaning import MEANING


@pytest.mark.parametrize("page", generate.pages())
def test_the_reference_is_what_would_be_made_from_the_code(page: str) -> None:
    made = generate.pages()[page]
    assert (generate.HERE / page).read_text() == made, "make it anew: python -m docs.generate"


def test_every_key_has_one_meaning_and_no_meaning_is_left_over() -> None:
    assert [key.name for key in generate.config_keys() if key.name not in MEANING] == []
    assert MEANING.keys() - {key.name for key in generate.config_keys()} == set()


def test_every_verdict_of_the_code_is_explained() -> None:
    assert generate.verdict_words() == set(generate.VERDICTS)


def test_every_kind_of_event_of_the_code_is_explained() -> None:
    assert generate.event_kinds() == set(generate.EVENTS)


def test_every_status_that_we_refuse_with_has_a_meaning() -> None:
    assert generate.refusals().keys() - generate.STATUSES.keys() == set()
