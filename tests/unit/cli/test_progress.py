"""What takes its time says so; what is quick says nothing."""

from __future__ import annotations

import threading

import pytest

from supervisord_ai.cli.progress import working


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with working("loading", quick_s=60.0):
        pass
    assert capsys.readouterr() == ("", "")


def test_what_takes_longer_is_one_line_on_stderr_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with working("loading m\x1b[2J", quick_s=0.0):
        (teller,) = set(threading.enumerate()) - before or {threading.current_thread()}
        if teller is not threading.current_thread():
            teller.join(10)  # in a pipe it says its line and is done
    assert capsys.readouterr() == ("", "loading m\\x1b[2J ...\n")
