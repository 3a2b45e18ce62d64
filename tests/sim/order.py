"""The order of the backlog, seen at every start: whom a start passes, who is kept from a slot, and what a load pushes out.

It is told what is pushed, started, settled and loaded, keeps a ledger of its own, and judges by the promises alone:

    G2   nobody starts before one of the same right whose turn came earlier, so a flooder costs another at most one turn
    G4   nothing starts while the breaker is open
    G7   nobody is served above the ceiling of its class; a class with patient work and next to no share is served next
    G10  a model is not swapped in while the loaded one has work, but after twenty of its calls; nobody is passed for ever
    G16  an embed is passed by no generation that came later; embeds that came together for a busy engine go together

A turn begins when a request comes, or when its agent's last one started if that was later. One level of priority is worth
15 s, and requests of five seconds are as good as equal (`core/scheduler.py` says why).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisord_ai.core.breaker import BreakerState
from supervisord_ai.core.scheduler import Lease, Load, Start, Ticket
from supervisord_ai.core.slots import BackendSlots
from supervisord_ai.gateway.gateway import Gateway

LEVEL_S, BAND_S = 15.0, 5.0
CEILINGS = {"opus": 2, "sonnet": 4, "owner": 1, "guest": 8}
PATIENCE_S, FADES_S = 15.0, 60.0
STARVED, POOR = 0.07, 0.13  # around a tenth: the ledger here and the daemon's need not agree to the last second
CALLS_A_SWAP = 20
PASSED_MAX = 3 * CALLS_A_SWAP + 4  # of several that are first together the others' models may be loaded before
TOGETHER_S = 0.1


@dataclass(slots=True)
class _Waits:
    """One that waits. `passed`: how often it was the first and another went, because its own model is not loaded."""

    ticket: Ticket
    pushed_at: float
    passed: int = 0


class Order:
    """Watches the scheduler of one life. `broken` raises."""

    def __init__(self, gateway: Gateway, now: Callable[[], float], broken: Callable[[str, str], None]) -> None:
        self._gateway = gateway
        self._scheduler = scheduler = gateway._scheduler
        self._now = now
        self._broken = broken
        self._waiting: dict[str, _Waits] = {}
        self._turn_at: dict[str, float] = {}
        self._used: dict[str, tuple[float, float]] = {}  # by class: slot-seconds as they were then
        self._asked_for: set[Load] = set()
        self._starts = 0  # since a load that somebody waited for
        self._push, self._remove, self._settle = scheduler.push, scheduler.remove, scheduler.settle
        self._start, self._load, self._put_back, self._want = (
            scheduler._start, scheduler._load, scheduler.put_back, scheduler.want
        )  # fmt: skip
        for name, deed in (
            ("push", self._pushed), ("remove", self._removed), ("settle", self._settled), ("_start", self._starting),
            ("_load", self._loading), ("put_back", self._putting_back), ("want", self._wanted),
        ):  # fmt: skip
            setattr(scheduler, name, deed)

    # --- what is told --------------------------------------------------------------------------------------------------

    def _pushed(self, ticket: Ticket) -> None:
        self._push(ticket)
        self._waiting[ticket.id] = _Waits(ticket, self._now())
        ceiling = CEILINGS.get(ticket.agent_class, 1)
        if ticket.priority < ceiling:
            self._broken("G7", f"{ticket.agent} waits with priority {ticket.priority}, and its class may have {ceiling}")

    def _removed(self, ticket_id: str) -> Ticket | None:
        self._waiting.pop(ticket_id, None)
        return self._remove(ticket_id)

    def _putting_back(self, ticket_id: str, tickets: Sequence[Ticket] = ()) -> None:
        self._put_back(ticket_id, tickets)
        for ticket in tickets:
            self._turn_at.pop(ticket.agent, None)

    def _settled(
        self, ticket_id: str, now: float, *, ended_well: bool = True, parts: Sequence[tuple[Ticket, float]] = ()
    ) -> Lease:
        lease = self._settle(ticket_id, now, ended_well=ended_well, parts=parts)
        sharers = parts or [(lease.ticket, 1.0)]  # a call that is shared is paid for by the classes of all its sharers
        whole = sum(weight for _, weight in sharers)
        for ticket, weight in sharers:
            name = ticket.agent_class
            self._used[name] = (self._used_s(name, now) + (now - lease.started_at) * weight / whole, now)
        return lease

    def _wanted(self, load: Load) -> None:
        self._want(load)
        self._asked_for.add(load)

    # --- a start -------------------------------------------------------------------------------------------------------

    def _starting(self, ticket: Ticket, backend: BackendSlots, now: float) -> Start:
        if self._gateway._backends[0].breaker.state is BreakerState.OPEN:
            self._broken("G4", f"a request of {ticket.agent} starts while the breaker is open")
        if not ticket.is_load:
            self._starts += 1
            self._judge(ticket, backend, now)
        is_full = ticket.merges is not None and not backend.has_more_room(ticket.model)
        begun = self._start(ticket, backend, now)
        for each in (ticket, *begun.riders):
            self._waiting.pop(each.id, None)
            self._turn_at[each.agent] = now
        if is_full and not begun.riders:
            self._judge_alone(ticket, now)
        return begun

    def _judge(self, ticket: Ticket, backend: BackendSlots, now: float) -> None:
        key, heads = self._key(ticket), self._heads(backend, now)
        shares: dict[str, float] = {}
        first = min((self._key(waits.ticket) for waits in heads), default=key)
        for waits in heads:
            other = waits.ticket
            is_other_class = other.agent_class != ticket.agent_class
            is_later = key > self._key(other) + BAND_S
            if not (is_later or is_other_class) or other.agent == ticket.agent:
                continue
            if is_other_class:
                shares = shares or self._shares(backend, now)
            mine, theirs = shares.get(ticket.agent_class, 0.0), shares.get(other.agent_class, 0.0)
            is_for_the_floor = is_other_class and mine < POOR and _has_patient(ticket.agent_class, heads, now)
            if other.model != ticket.model and backend.needs_load(other):
                waits.passed += is_later and not is_for_the_floor and self._key(other) == first
                if waits.passed > PASSED_MAX:
                    self._broken("G10", f"{_told(other, now)} was passed {waits.passed} times, for its model is not loaded")
            elif is_later and not is_for_the_floor:
                promise = "G16" if other.is_embedding and not ticket.is_embedding else "G2"
                self._broken(promise, f"{_told(ticket, now)} starts before {_told(other, now)}")
            elif not is_later and now - other.arrived_at >= PATIENCE_S and theirs < STARVED and mine > POOR:
                self._broken("G7", f"{_told(ticket, now)} starts, {_told(other, now)} waits, and each class had {shares}")

    def _heads(self, backend: BackendSlots, now: float) -> list[_Waits]:
        """The first of each agent that may start now, whether its model is loaded or not."""
        heads: dict[str, tuple[float, _Waits]] = {}
        gone = []
        for waits in self._waiting.values():
            ticket = waits.ticket
            if ticket.start_by <= now:
                gone.append(ticket.id)  # its time has passed; nobody says so here
            elif ticket.not_before <= now and not ticket.is_load and backend.can_take(ticket.model):
                key = ticket.arrived_at + ticket.priority * LEVEL_S
                if ticket.agent not in heads or key < heads[ticket.agent][0]:
                    heads[ticket.agent] = key, waits
        for each in gone:
            del self._waiting[each]
        return [waits for _, waits in heads.values()]

    def _judge_alone(self, ticket: Ticket, now: float) -> None:
        for waits in self._waiting.values():
            other = waits.ticket
            if other.merges is None or ticket.merges is None or other.merges.key != ticket.merges.key:
                continue
            if abs(other.arrived_at - ticket.arrived_at) < TOGETHER_S and other.not_before <= now < other.start_by:
                self._broken("G16", f"{_told(ticket, now)} starts alone, and {_told(other, now)} came with it")

    # --- a load --------------------------------------------------------------------------------------------------------

    def _loading(self, backend: BackendSlots, load: Load) -> Load:
        if load in self._asked_for:
            self._asked_for.discard(load)
            return self._load(backend, load)
        now, starts, self._starts = self._now(), self._starts, 0
        due = [waits.ticket for waits in self._heads(backend, now)]
        waiting_for_it = {ticket.agent_class for ticket in due if ticket.model == load.model}
        at_hand = {ticket.agent_class for ticket in due if not backend.needs_load(ticket)}
        shares = self._shares(backend, now)
        is_even = all(shares.get(name, 0.0) > POOR for name in waiting_for_it)  # else the floor may have chosen among fewer
        has_work = bool(waiting_for_it) and bool(at_hand) and (is_even or waiting_for_it <= at_hand)
        if starts < CALLS_A_SWAP and has_work and backend.resident:
            self._broken("G10", f"{load.model} is loaded after {starts} calls, and {sorted(backend.resident)} had work")
        return self._load(backend, load)

    # --- the ledger ----------------------------------------------------------------------------------------------------

    def _key(self, ticket: Ticket) -> float:
        return max(ticket.arrived_at, self._turn_at.get(ticket.agent, -math.inf)) + ticket.priority * LEVEL_S

    def _used_s(self, name: str, now: float) -> float:
        amount, at = self._used.get(name, (0.0, now))
        return amount * math.exp((at - now) / FADES_S)

    def _shares(self, backend: BackendSlots, now: float) -> dict[str, float]:
        """Each class's part of what was used within about a minute, with what runs now."""
        used = {name: self._used_s(name, now) for name in self._used}
        for lease in backend.leases.values():
            name = lease.ticket.agent_class
            used[name] = used.get(name, 0.0) + max(now - lease.started_at, lease.estimate_s)
        whole = sum(used.values())
        return {name: round(amount / whole, 3) for name, amount in used.items()} if whole else {}


def _has_patient(name: str, heads: Sequence[_Waits], now: float) -> bool:
    return any(now - waits.ticket.arrived_at >= PATIENCE_S for waits in heads if waits.ticket.agent_class == name)


def _told(ticket: Ticket, now: float) -> str:
    what = "embed" if ticket.is_embedding else "request"
    return (
        f"{what} {ticket.id.lstrip('0')} of {ticket.agent} ({ticket.model}, priority {ticket.priority},"
        f" came {now - ticket.arrived_at:.1f} s ago)"
    )
