"""Says why a request waits: one word for programs, a sentence for people. The first obstacle on its way counts."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from supervisord_ai.core.slots import BackendSlots
from supervisord_ai.core.waiting import Ticket


class WaitCause(StrEnum):
    """What a request waits for."""

    SLOT = "slot"
    LOAD = "load"
    RATE = "rate"
    BACKEND = "backend"
    BREAKER = "breaker"
    LEVEL = "level"
    OWNER = "owner"  # he paused the queue


def why(
    ticket: Ticket, backends: Iterable[BackendSlots], having: Iterable[BackendSlots], *, is_paused: bool, now: float
) -> tuple[WaitCause, str]:
    """Return why a ticket waits. `having`: the backends at which its model is to be had."""
    if is_paused:
        return WaitCause.OWNER, "its owner paused the queue"
    if ticket.not_before > now:
        return WaitCause.RATE, f"not before {ticket.not_before - now:.0f} s from now"
    if not any(backend.is_ready for backend in backends):
        return WaitCause.BACKEND, "no backend answers"
    ready = [backend for backend in having if backend.is_ready]
    if not ready:
        return WaitCause.BACKEND, f"no backend that has {ticket.model} answers"
    ready = [backend for backend in ready if backend.may_start > 0]
    if not ready:
        return WaitCause.BREAKER, "the breaker is open, or lets one call through to find out"
    if all(not backend.held.isdisjoint({None, ticket.model}) for backend in ready):
        return WaitCause.LOAD, f"{ticket.model} is being unloaded or looked after"
    if ticket.model is not None and any(backend.loading == ticket.model for backend in ready):
        return WaitCause.LOAD, f"{ticket.model} is being loaded"
    if any(backend.loading is not None for backend in ready):
        return WaitCause.LOAD, "another model is being loaded"
    if not any(backend.can_take(ticket.model) for backend in ready):
        return WaitCause.SLOT, f"all slots of {ticket.model} are busy"
    return WaitCause.SLOT, "all slots are busy"
