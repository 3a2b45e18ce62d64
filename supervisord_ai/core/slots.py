"""Knows the slots of one backend: who has them, which models are behind them, and whether anything may begin there now.

The scheduler is its one writer; it decides what begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.waiting import Ticket


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model on this backend, uncancelled; report with `loaded` exactly once."""

    backend: str
    model: str
    is_embedding: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot in use. `has_arrived`: Ollama has answered with a byte, so the call holds its runner."""

    ticket: Ticket
    backend: str
    started_at: float
    estimate_s: float
    has_arrived: bool = False


@dataclass(slots=True)
class BackendSlots:
    """One backend: its slots and who has them, which models it holds, and what may begin there now."""

    name: str
    slots: int
    is_ready: bool = False
    loading: str | None = None
    resident: frozenset[str] = frozenset()
    installed: frozenset[str] = frozenset()  # a call for any other model goes without a load, and gets the real error
    unloadable: frozenset[str] = frozenset()  # a load was refused lately: likewise
    model_slots: Mapping[str, int] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    bypassed: int = 0
    may_start: float = math.inf  # how many more calls and loads may begin; the breaker's word
    is_cpu: bool = False
    holds_loads: bool = False  # something is being unloaded: what is not loaded waits
    held: set[str | None] = field(default_factory=set)  # models of which nothing starts; None: nothing at all does
    wanted: list[Load] = field(default_factory=list)  # loads that somebody asked for

    @property
    def busy(self) -> int:
        own_load = self.loading is not None and not any(lease.ticket.is_load for lease in self.leases.values())
        return len(self.leases) + own_load

    @property
    def has_room(self) -> bool:
        """Whether anything may begin here now."""
        is_open = self.is_ready and self.loading is None and self.may_start > 0 and None not in self.held
        return is_open and self.busy < self.slots

    def has_at_hand(self, model: str) -> bool:
        """Whether a call of this model could begin here now without a load."""
        return self.has_room and model in self.resident and self.can_take(model)

    def can_take(self, model: str | None) -> bool:
        if model in self.held:
            return False
        if model is None or model not in self.model_slots:
            return True
        return sum(lease.ticket.model == model for lease in self.leases.values()) < self.model_slots[model]

    def has_more_room(self, model: str | None) -> bool:
        """Whether a second call of this model could start beside the one that starts now."""
        limit = self.slots if model is None else self.model_slots.get(model, self.slots)
        running = sum(lease.ticket.model == model for lease in self.leases.values())
        return self.busy + 1 < self.slots and running + 1 < limit

    def free_at(self, now: float) -> list[float]:
        """When each slot comes free, as far as can be told."""
        busy = [max(now, lease.started_at + lease.estimate_s) for lease in self.leases.values()]
        return [*busy, *[now] * (self.slots - len(busy))]

    def model_free_at(self, model: str, now: float) -> list[float]:
        """The same for the slots of a model, which may have fewer."""
        busy = [max(now, lease.started_at + lease.estimate_s) for lease in self.leases.values() if lease.ticket.model == model]
        return [*busy, *[now] * (self.model_slots.get(model, self.slots) - len(busy))]

    def awaits_arrivals(self, now: float, arrival_s: float) -> bool:
        return any(not lease.has_arrived and now < lease.started_at + arrival_s for lease in self.leases.values())

    def needs_load(self, ticket: Ticket) -> bool:
        if ticket.is_load or ticket.model not in self.installed:
            return False
        return ticket.model not in self.resident and ticket.model not in self.unloadable
