"""The ledger counts what somebody else wants to know of an engine, across kills."""

from __future__ import annotations

from pathlib import Path

from supervisord_ai.engine.ledger import Ledger, summarise


def test_what_was_written_adds_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", run="a")
    one, two = ledger.begin("chat", 1.0), ledger.begin("generate", 1.5)
    ledger.end(two, "left", 3, 2.0)
    ledger.end(one, "ok", 16, 3.0)
    ledger.note("load", 3.5)
    ledger.end(ledger.begin("embed", 4.0), "error", 0, 4.1)
    ledger.close()
    found = summarise((tmp_path / "ledger").read_text().splitlines())
    assert (found.calls, found.ok, found.left, found.errors, found.open) == (3, 1, 1, 1, 0)
    assert (found.peak_in_flight, found.tokens, found.loads, found.engines) == (2, 19, 1, 1)


def test_engines_that_follow_one_another_share_a_file_and_a_kill_leaves_open_calls(tmp_path: Path) -> None:
    killed = Ledger(tmp_path / "ledger", run="a")
    killed.begin("chat", 1.0)
    killed.begin("chat", 1.0)
    next_one = Ledger(tmp_path / "ledger", run="b")
    next_one.end(next_one.begin("chat", 9.0), "ok", 16, 9.5)
    found = summarise((tmp_path / "ledger").read_text().splitlines())
    assert (found.calls, found.ok, found.open, found.engines) == (3, 1, 2, 2)
    assert found.peak_in_flight == 2, "the second engine starts at none, whatever the first one held"


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", run="a")
    ledger.end(ledger.begin("chat", 1.0), "ok", 16, 2.0)
    text = (tmp_path / "ledger").read_text()
    assert summarise([*text.splitlines(), text[:20]]).calls == 1


def test_without_a_file_it_still_counts() -> None:
    ledger = Ledger(None, run="a")
    ledger.begin("chat", 1.0)
    call = ledger.begin("chat", 1.0)
    ledger.end(call, "ok", 0, 2.0)
    assert (ledger.in_flight, ledger.peak) == (1, 2)
