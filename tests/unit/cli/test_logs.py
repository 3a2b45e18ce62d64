"""The log: a line a deed, with its priority for systemd, and nothing in it that a terminal would obey."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.cli.logs import LineFormatter, escaped, is_journal


def line(message: str, *args: object, level: int = logging.WARNING, for_journal: bool = True, trace: bool = False) -> str:
    info = None
    if trace:
        try:
            raise ValueError("bad \x1b[2J words\nof two lines")
        except ValueError:
            info = sys.exc_info()
    return LineFormatter(for_journal=for_journal).format(logging.LogRecord("room", level, "f", 1, message, args, info))


def test_under_systemd_a_line_begins_with_its_priority() -> None:
    assert line("agent %s ended", "a-1") == "<4>room: agent a-1 ended"
    assert line("x", level=logging.INFO) == "<6>room: x"
    assert line("x", level=logging.CRITICAL) == "<2>room: x"


def test_at_a_terminal_it_has_the_time_and_the_level_in_words() -> None:
    assert line("x", for_journal=False).endswith(" WARNING room: x")


def test_every_line_of_a_traceback_has_the_priority_and_none_is_obeyed() -> None:
    lines = line("failed", trace=True, level=logging.ERROR).split("\n")
    assert len(lines) > 3
    assert all(one.startswith("<3>") for one in lines)
    assert "\x1b" not in "".join(lines)


def test_a_line_break_in_a_message_makes_no_second_line() -> None:
    assert line("agent %s", "a\n<0>forged") == "<4>room: agent a\\n<0>forged"


@given(st.text())
def test_nothing_that_anybody_chose_reaches_a_terminal_raw(text: str) -> None:
    told = line("agent %s said %s", "a", text)
    assert all(char.isprintable() or char == "\t" for char in told)
    assert escaped(text) == text or not text.isprintable()


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    found = os.stat(tmp_path)
    assert is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, found)
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, found)  # inherited, and redirected since
    assert not is_journal({}, found)
