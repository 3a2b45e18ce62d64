"""Decides whether the supervisor makes progress, so that systemd's watchdog is fed by work done and not by a timer.

Whoever asks does so from the loop, which proves that it turns. The journal and the dispatcher are looked at from outside: each
was given something to do, or had nothing to do, and has done it by the next look. A full disk is progress: its writes fail,
one after another, and service goes on as far as it can. A disk that never answers is none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signs:
    """What has been done since the start, and what waits.

    `stored` counts commits, syncs and failures of the journal, `unstored` writes that somebody waits for; `turns` counts how
    often the dispatcher looked for work, which it was told to do at the last look.
    """

    stored: int
    unstored: int
    turns: int


class Progress:
    """Compares each look with the one before."""

    def __init__(self) -> None:
        self._last: Signs | None = None

    def __repr__(self) -> str:
        return f"<progress {self._last}>"

    def stuck(self, signs: Signs) -> tuple[str, ...]:
        """Return the parts that have not moved since the last look; () is progress. The first look is."""
        last, self._last = self._last, signs
        if last is None:
            return ()
        stuck = []
        if last.unstored and signs.unstored and signs.stored == last.stored:
            stuck.append("the journal")
        if signs.turns == last.turns:
            stuck.append("the dispatcher")
        return tuple(stuck)
