"""`kill -9` at random moments under load. `python -m tests.system.random_kills` does it two hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.random_kills import play

pytestmark = pytest.mark.slow


def test_nothing_acknowledged_is_lost_whenever_the_daemon_is_killed(tmp_path: Path) -> None:
    book = play(tmp_path, kills=6, seed=20261127)
    assert book.wrong == []
    assert len(book.answers) > 10
    assert len(book.promised) > 10
    assert book.told_of
    assert book.counts["came back"]
