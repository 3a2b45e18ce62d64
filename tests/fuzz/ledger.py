"""The ledger of fuzzing, `docs/fuzzing.md`: a table with a row a target, to which each run adds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LEDGER = Path(__file__).parent.parent.parent / "docs" / "fuzzing.md"
_ROW = re.compile(r"^\| `(?P<target>\w+)` \| (?P<hours>[\d.]+) \| (?P<runs>[\d,]+) \| (?P<crashes>\d+) \|$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of one target."""

    target: str
    seconds: float
    runs: int
    crashes: int

    def __str__(self) -> str:
        return f"{self.target}: {self.runs:,} inputs in {self.seconds:.0f} s, {self.crashes} broke it"


def with_entry(text: str, entry: Entry) -> str:
    """Return the ledger with one more run in it."""
    lines, is_new = text.splitlines(), True
    for at, line in enumerate(lines):
        row = _ROW.match(line)
        if row is not None and row["target"] == entry.target:
            hours = float(row["hours"]) + entry.seconds / 3600
            runs = int(row["runs"].replace(",", "")) + entry.runs
            lines[at] = _row(entry.target, hours, runs, int(row["crashes"]) + entry.crashes)
            is_new = False
    if is_new:
        last = max((at for at, line in enumerate(lines) if line.startswith("|")), default=len(lines) - 1)
        lines.insert(last + 1, _row(entry.target, entry.seconds / 3600, entry.runs, entry.crashes))
    return "\n".join(lines) + "\n"


def add(entry: Entry) -> None:
    """Write one more run into the ledger."""
    LEDGER.write_text(with_entry(LEDGER.read_text(), entry))


def _row(target: str, hours: float, runs: int, crashes: int) -> str:
    return f"| `{target}` | {hours:.3f} | {runs:,} | {crashes} |"
