"""The ledger of mutation testing, `docs/mutation.md`: what was tried of each module, and why a mutant may survive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LEDGER = Path(__file__).parent.parent.parent / "docs" / "mutation.md"
_MODULE = re.compile(r"^\| `(?P<module>[\w/]+)` \| [\d,]+ \| [\d,]+ \| [\d,]+ \|$")
_SURVIVOR = re.compile(r"^\| `(?P<where>[\w/.]+)` \| `(?P<was>.*)` \| `(?P<becomes>.*)` \| (?P<why>\S.*) \|$")


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed: `breaker.Breaker.fault`, what was written there, and what instead."""

    where: str
    was: str
    becomes: str

    def __str__(self) -> str:
        was, becomes = (text.replace("|", "\\|") for text in (self.was, self.becomes))
        return f"| `{self.where}` | `{was}` | `{becomes}` |"

    @property
    def module(self) -> str:
        return self.where.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one module's mutants."""

    module: str
    mutants: int
    survivors: tuple[Survivor, ...]

    def __str__(self) -> str:
        return f"| `{self.module}` | {self.mutants:,} | {self.mutants - len(self.survivors):,} | {len(self.survivors):,} |"


def explained(text: str) -> dict[Survivor, str]:
    """Return the survivors that the ledger knows, each with the reason why it may live."""
    rows = (_SURVIVOR.match(line) for line in text.splitlines())
    return {
        Survivor(row["where"], row["was"].replace("\\|", "|"), row["becomes"].replace("\\|", "|")): row["why"]
        for row in rows
        if row is not None
    }


def table(text: str) -> list[str]:
    """Return the modules that the ledger has a row of, in its order."""
    return [row["module"] for line in text.splitlines() if (row := _MODULE.match(line)) is not None]


def with_outcome(text: str, outcome: Outcome) -> str:
    """Return the ledger with the row of one module as it was seen now; rows are kept in order."""
    lines = text.splitlines()
    rows = {row["module"]: line for line in lines if (row := _MODULE.match(line)) is not None}
    rows[outcome.module] = str(outcome)
    at = next(at for at, line in enumerate(lines) if line.startswith("| module ")) + 2
    rest = [line for line in lines[at:] if _MODULE.match(line) is None]
    return "\n".join([*lines[:at], *(rows[module] for module in sorted(rows)), *rest]) + "\n"
