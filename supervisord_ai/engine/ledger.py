"""A file that tells afterwards what the engine was asked: one line for each call begun and each ended.

`in_flight` counts every call the engine holds, those that wait for a slot too: a gateway that hands over more than it may
is seen here. Lines are appended with one write each, so engines that follow one another share a file, and a kill loses
nothing that was written. Loads and unloads are noted, but are not calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class Ledger:
    """Counts the calls of one engine process, and appends them to a file if it has one."""

    def __init__(self, path: Path | None, *, run: str) -> None:
        self._fd = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._run = run
        self._last = 0
        self.in_flight = 0
        self.peak = 0

    def begin(self, op: str, wall: float) -> int:
        """A call is here; returns the number to end it with."""
        self._last += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self._append(event="begin", call=self._last, op=op, in_flight=self.in_flight, at=wall)
        return self._last

    def end(self, call: int, outcome: str, tokens: int, wall: float) -> None:
        """The call is over: `ok`, `left` (its caller went away) or `error`. `tokens` were generated for it."""
        self.in_flight -= 1
        self._append(event="end", call=call, outcome=outcome, tokens=tokens, in_flight=self.in_flight, at=wall)

    def note(self, what: str, wall: float) -> None:
        """Something that is not a call: `load` or `unload`."""
        self._append(event=what, at=wall)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _append(self, **line: str | float) -> None:
        if self._fd is not None:
            os.write(self._fd, json.dumps({"run": self._run, **line}).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """What one or several engines wrote: calls by how they ended, the most they held at once, how often they loaded.

    `open` calls have no end: they are under way, or their engine was killed.
    """

    calls: int = 0
    ok: int = 0
    left: int = 0
    errors: int = 0
    open: int = 0
    peak_in_flight: int = 0
    tokens: int = 0
    loads: int = 0
    engines: int = 0


def summarise(lines: Iterable[str]) -> LedgerSummary:
    """Add a ledger up. A line cut short (no kill can make one, a full disk can) is passed over."""
    begun = peak = tokens = loads = 0
    outcomes = {"ok": 0, "left": 0, "error": 0}
    runs: set[str] = set()
    for text in lines:
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            runs.add(line["run"])
            match line["event"]:
                case "begin":
                    begun += 1
                    peak = max(peak, line["in_flight"])
                case "end":
                    outcomes[line["outcome"]] += 1
                    tokens += line["tokens"]
                case "load":
                    loads += 1
    return LedgerSummary(
        calls=begun,
        ok=outcomes["ok"],
        left=outcomes["left"],
        errors=outcomes["error"],
        open=begun - sum(outcomes.values()),
        peak_in_flight=peak,
        tokens=tokens,
        loads=loads,
        engines=len(runs),
    )
