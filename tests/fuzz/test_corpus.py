"""What the fuzzer kept is replayed in the ordinary tests: no target breaks on any of it, and each has some."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.ledger import LEDGER, Entry, with_entry
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_breaks_nothing(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    assert kept, "a target without a corpus starts from nothing each time"
    for file in kept:
        TARGETS[name](file.read_bytes())


def test_each_target_is_in_the_ledger() -> None:
    text = LEDGER.read_text()
    assert [name for name in TARGETS if f"| `{name}` |" not in text] == []


def test_a_run_is_added_to_its_row() -> None:
    before = "# x\n\n| target | hours | inputs | broken |\n| --- | --- | --- | --- |\n| `sse` | 1.000 | 1,000 | 0 |\n\nmore\n"
    after = with_entry(before, Entry("sse", 1800, 500, 1))
    assert "| `sse` | 1.500 | 1,500 | 1 |" in after
    assert "| `chunked` | 0.500 | 7 | 0 |\n\nmore" in with_entry(before, Entry("chunked", 1800, 7, 0))
