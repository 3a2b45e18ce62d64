"""What the doctor says: one sentence, how bad it is, and what to type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is; the first two make `doctor` end with 1."""

    FAIL = "fail"  # something that we promise does not hold, or nothing works at all
    WARN = "warn"  # it works, and something is lost that need not be
    NOTE = "note"  # worth knowing; nothing need be done
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Fix:
    """Lines and where they belong: a file (with its section for people), or a shell. `then` makes them hold."""

    where: str
    lines: tuple[str, ...]
    then: str = ""


@dataclass(frozen=True, slots=True)
class Deed:
    """What `doctor --fix` may do by itself, since the file is ours alone: give it this mode, or make a folder with it."""

    path: str
    mode: int
    is_missing: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `name` is stable, for programs; `why` says what comes of it."""

    name: str
    severity: Severity
    words: str
    why: str = ""
    fixes: tuple[Fix, ...] = ()
    deed: Deed | None = None


def good(name: str, words: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(name, Severity.GOOD, words)


def is_well(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing need be done."""
    return not any(one.severity in {Severity.FAIL, Severity.WARN} for one in findings)


def size(count: int) -> str:
    """Return bytes as people say them: "48.0 GB", "300 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1_000_000_000 else f"{count / 1e6:.0f} MB"
