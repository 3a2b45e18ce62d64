"""Counts how requests ended, of all and of each agent. One writer per figure; read by people and tests only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from supervisord_ai.gateway.view import LedgerView, Totals


class Ending(StrEnum):
    """How a request ended; the words are those of `Totals`."""

    ANSWERED = "answered"
    CACHED = "cached"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Account:
    """One agent's line in the ledger. The fields are those of `LedgerView`."""

    asked: int = 0
    answered: int = 0
    cached: int = 0
    coalesced: int = 0
    tokens: int = 0
    slot_s: float = 0.0
    waited_s: float = 0.0
    cached_saved_s: float = 0.0
    coalesced_saved_s: float = 0.0

    def view(self) -> LedgerView:
        """Return the figures so far."""
        return LedgerView(
            asked=self.asked,
            answered=self.answered,
            cached=self.cached,
            coalesced=self.coalesced,
            tokens=self.tokens,
            slot_s=self.slot_s,
            waited_s=self.waited_s,
            cached_saved_s=self.cached_saved_s,
            coalesced_saved_s=self.coalesced_saved_s,
        )


class Tally:
    """The counters behind `Totals`."""

    def __init__(self) -> None:
        self.asked = self.recovered = self.rejoined = self.coalesced = self.tokens = self.not_granted = 0
        self.waited_s = self.generated_s = 0.0
        self._ended: Counter[tuple[str, Ending]] = Counter()
        self._accounts: dict[str, Account] = {}

    def end(self, agent_class: str, how: Ending) -> None:
        """A request of this class has ended."""
        self._ended[agent_class, how] += 1

    def ended(self) -> dict[tuple[str, Ending], int]:
        """Return how many requests of each class ended how."""
        return dict(self._ended)

    def of(self, agent: str) -> Account:
        """Return an agent's line, to write in. All guests have one, all calls of the owner another."""
        return self._accounts.setdefault(agent, Account())

    def line(self, agent: str) -> LedgerView:
        """Return what stands in an agent's line."""
        return self._accounts.get(agent, Account()).view()

    def ledger(self) -> dict[str, LedgerView]:
        """Return every line, by agent."""
        return {agent: account.view() for agent, account in sorted(self._accounts.items())}

    def totals(self) -> Totals:
        """Return the counts so far."""
        ended = Counter[str]()
        for (_, how), count in self._ended.items():
            ended[how.value] += count
        return Totals(
            asked=self.asked,
            **{how.value: ended[how.value] for how in Ending},
            recovered=self.recovered,
            rejoined=self.rejoined,
            coalesced=self.coalesced,
            waited_s=self.waited_s,
            generated_s=self.generated_s,
            tokens=self.tokens,
            not_granted=self.not_granted,
        )
