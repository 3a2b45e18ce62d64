"""`events`: what a time means, and how a line looks."""

from __future__ import annotations

import time

import pytest

from supervisord_ai.cli.events import line_of, since_wall
from supervisord_ai.errors import UsageError

NOW = time.mktime((2026, 11, 27, 18, 30, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [("90s", 90), ("10m", 600), ("1.5 h", 5400), ("2d", 172_800), ("18:00", 1800), ("17:29:30", 3630), ("2026-11-27 18:29", 60)],
)
def test_a_time_is_an_age_or_a_clock(text: str, ago_s: float) -> None:
    assert since_wall(text, NOW) == pytest.approx(NOW - ago_s)


@pytest.mark.parametrize("text", ["", "yesterday", "10", "25:00", "2026-13-01", "-5m"])
def test_what_is_no_time_is_said_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="say 10m"):
        since_wall(text, NOW)


def test_no_word_of_an_agent_is_obeyed() -> None:
    event = {"at_wall": NOW, "kind": "agent.ended", "agent": "a\x1b[2J", "request_id": None, "detail": {"last": "\x1b]0;x\x07\n"}}
    assert line_of(event) == "2026-11-27 18:30:00  agent.ended           a\\x1b[2J  last=\\x1b]0;x\\x07\\n"
