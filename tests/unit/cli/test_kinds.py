"""What may be typed where a number or a time is meant, and what is said of anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from supervisord_ai.cli import kinds
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main

Kind = Callable[[str], Any]


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (kinds.lines, "1", 1),
        (kinds.lines, "10000", 10_000),
        (kinds.last_lines, "0", 0),
        (kinds.last_lines, "10000", 10_000),
        (kinds.at_once, "4,1,2,2", (1, 2, 4)),
        (kinds.at_once, "64", (64,)),
        (kinds.pin_time, "1s", 1.0),
        (kinds.pin_time, "1.5m", 90.0),
        (kinds.pin_time, "168h", 604_800.0),
        (kinds.count, "0", 0),
        (kinds.count, "10000", 10_000),
        (kinds.days, "366", 366),
        (kinds.port, "65535", 65_535),
    ],
)
def test_what_is_meant_is_read(kind: Kind, word: str, value: Any) -> None:
    assert kind(word) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("events", "-n", "0"), "0 is not a number from 1 to 10000"),
        (("events", "-n", "10001"), "10001 is not a number from 1 to 10000"),
        (("events", "-n", "few"), "few is not a number from 1 to 10000"),
        (("agents", "logs", "-n", "few", "a"), "few is not a number of lines: 0 to 10000"),
        (("agents", "logs", "-n", "10001", "a"), "10001 is not a number of lines: 0 to 10000"),
        (("bench", "--at-once", "0,1"), "0,1 is not a list of numbers from 1 to 64, such as 1,2,4"),
        (("bench", "--at-once", "65"), "65 is not a list of numbers from 1 to 64, such as 1,2,4"),
        (("bench", "--at-once", "1,,2"), "1,,2 is not a list of numbers from 1 to 64, such as 1,2,4"),
        (("level", "pin", "2", "--for", "0s"), "0s is not a time: 30s, 10m or 2h, at most a week"),
        (("level", "pin", "2", "--for", "169h"), "169h is not a time: 30s, 10m or 2h, at most a week"),
        (("level", "pin", "2", "--for", "soon"), "soon is not a time: 30s, 10m or 2h, at most a week"),
        (("agents", "scale", "a", "10001"), "10001 is not a number of agents: 0 to 10000"),
        (("agents", "scale", "a", "-1"), "-1"),
        (("config", "suggest", "--days", "367"), "367 is not a number from 1 to 366"),
        (("config", "suggest", "--days", "0"), "0 is not a number from 1 to 366"),
        (("takeover", "--port", "65536"), "65536 is not a port: 1 to 65535"),
        (("takeover", "--port", "0"), "0 is not a port: 1 to 65535"),
    ],
)
def test_anything_else_is_a_usage_error_that_says_what_it_should_have_been(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == Exit.USAGE
    assert said in capsys.readouterr().err
