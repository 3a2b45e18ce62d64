"""Counts how requests ended. One writer per figure; read by people and tests only."""

from __future__ import annotations

from supervisord_ai.gateway.view import Totals


class Tally:
    """The counters behind `Totals`."""

    def __init__(self) -> None:
        self.asked = self.answered = self.cached = self.refused = self.failed = self.cancelled = 0
        self.recovered = self.rejoined = self.coalesced = self.tokens = 0
        self.waited_s = self.generated_s = 0.0

    def totals(self) -> Totals:
        """Return the counts so far."""
        return Totals(
            asked=self.asked,
            answered=self.answered,
            cached=self.cached,
            refused=self.refused,
            failed=self.failed,
            cancelled=self.cancelled,
            recovered=self.recovered,
            rejoined=self.rejoined,
            coalesced=self.coalesced,
            waited_s=self.waited_s,
            generated_s=self.generated_s,
            tokens=self.tokens,
        )
