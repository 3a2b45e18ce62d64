"""The deliberate bugs of `tests/planted.py` can still be planted: a promise whose bug is gone would be proved by nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted import BUGS, Bug

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.promise} {bug.what}")
def test_a_bug_can_be_planted_and_its_tests_are_there(bug: Bug) -> None:
    text = (ROOT / "supervisord_ai" / bug.file).read_text()
    assert text.count(bug.text) == 1, bug.file
    assert bug.text != bug.instead
    assert all((ROOT / place.partition("::")[0]).exists() for place in bug.tests)


def test_there_is_one_for_at_least_twenty_promises() -> None:
    assert len({bug.promise for bug in BUGS}) >= 20
