"""Decides which waiting request starts next, on which backend, and which model is loaded first. Knows nothing of HTTP or rows.

Events in, effects out, all of them synchronous: `push`, `remove`, `settle`, `loaded`, `backend_ready`, `backend_lost` change
the state; `decide` returns what is to be done now and has already noted it as begun, so two calls never start one ticket twice.

The order, when a slot of a backend is free:
1. Who may not start is passed over: its rate's not-before time, its model's own slots.
2. A class under its floor goes first: it has had less than `floor` of the slot-seconds of the last minute, and one of its
   requests has waited `floor_patience_s` (without patience, any first request of a quiet class would overtake an urgent one).
3. One head per agent competes. Its key is when its turn began + priority x `level_s`: a request 15 s older beats one level, so
   nothing is ever re-sorted. The turn of an agent's next request begins when its last one started, however long it has been
   lying there: therefore a flooder costs another agent at most one turn.
4. Heads within `band_s` of the first compete by least slot-seconds over weight, decayed over a minute, running ones estimated.
5. A head whose model is not resident may be passed by others whose model is, at most `bypass_max` times: two models that do
   not fit together are swapped once for many calls. Then the model is loaded.
6. Whoever starts takes along all twins that wait for the same answer, and, when nothing else of the backend is free for its
   model, embeds that came with it (`core/coalesce.py`, `core/batch.py`).
7. Of several backends the one with the least calls chooses first, one on the processor last, each among those that it suits
   (`core/placement.py`).

A load takes a slot and nothing else starts on its backend until it is done: Ollama replaces a runner only when nobody uses
it, and new calls would keep it busy for ever (ollama#14578). There is one load at a time, because a call cancelled while it
waits for another's load is never answered (ollama PR #17044). And it waits until every call that was started holds its
runner: one that the load overtook on its way would have its model loaded right back. A first byte says so, or `arrival_s`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from supervisord_ai.core.batch import BatchPolicy, merge
from supervisord_ai.core.estimate import Forecast, Lanes, Line, ServiceTimes, forecast, newcomers_start
from supervisord_ai.core.placement import Placement
from supervisord_ai.core.shares import Shares
from supervisord_ai.core.slots import BackendSlots, Lease, Load
from supervisord_ai.core.wait_cause import WaitCause, why
from supervisord_ai.core.waiting import Entry, Ticket, Waiting

__all__ = ["Scheduler", "SchedulerPolicy", "Ticket", "Start", "Load", "Expire", "Effect", "Lease", "Standing"]


@dataclass(frozen=True, slots=True)
class SchedulerPolicy:
    """The numbers of the order."""

    level_s: float = 15.0
    band_s: float = 5.0  # a third of a level: nobody who is 10 s older loses to a better level
    floor: float = 0.10
    floor_patience_s: float = 15.0
    window_s: float = 60.0
    bypass_max: int = 20
    urgent: int = 3  # [levels] priority_only: who is let in at level 3 does not go to a slow backend either
    arrival_s: float = 5.0  # after this a call that was started is at its runner, byte or not
    batch: BatchPolicy = field(default_factory=BatchPolicy)


@dataclass(frozen=True, slots=True)
class Start:
    """Give this ticket a slot of this backend; `settle` it exactly once. `riders` come along on the same slot."""

    ticket: Ticket
    backend: str
    riders: tuple[Ticket, ...] = ()


@dataclass(frozen=True, slots=True)
class Expire:
    """This ticket's time to start has passed; it is out of the backlog."""

    ticket: Ticket


Effect = Start | Load | Expire


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a waiting ticket stands. `ahead` counts those that would start before it if nothing else came."""

    ahead: int
    reason: str


@dataclass(frozen=True, slots=True)
class PriorityStanding:
    """How one priority stands: how many wait, the arrival of the oldest, when one that came now would start (None: unknown)."""

    priority: int
    queued: int
    oldest_at: float
    newcomer_starts_at: float | None


class Scheduler:
    """The backlog in memory and the slots of every backend. The one writer of both."""

    def __init__(
        self, slots: Mapping[str, int], policy: SchedulerPolicy | None = None, *, on_cpu: Collection[str] = ()
    ) -> None:
        self.policy = policy if policy is not None else SchedulerPolicy()
        self.service = ServiceTimes()
        self._backends = {name: BackendSlots(name, count, is_cpu=name in on_cpu) for name, count in slots.items()}
        self._placement = Placement(self._backends.values(), self.policy.urgent)
        self._turn_at: dict[str, float] = {}  # by agent: when its turn began
        self._shares = Shares(self.policy.window_s)
        self._waiting = Waiting(self.policy.level_s)
        self.is_paused = False  # at its owner's word: what waits goes on waiting, until its deadline

    # --- events --------------------------------------------------------------------------------------------------------

    def push(self, ticket: Ticket) -> None:
        """Add a ticket to the backlog. Ids are unique among the waiting."""
        self._waiting.push(ticket)
        self._turn_at.setdefault(ticket.agent, -math.inf)

    def remove(self, ticket_id: str) -> Ticket | None:
        """Take a waiting ticket out: its caller left, or it was cancelled. None when it does not wait."""
        return self._waiting.remove(ticket_id)

    def arrived(self, ticket_id: str) -> None:
        """The first byte of a started call's answer is here."""
        for backend in self._backends.values():
            if ticket_id in backend.leases:
                backend.leases[ticket_id] = replace(backend.leases[ticket_id], has_arrived=True)

    def hand_over(self, ticket_id: str, heir: Ticket) -> None:
        """The holder of a slot has left; from now on it is held, and paid for, by somebody who shares the call."""
        backend = self._backend_of(ticket_id)
        backend.leases[heir.id] = replace(backend.leases.pop(ticket_id), ticket=heir)

    def put_back(self, ticket_id: str, tickets: Sequence[Ticket] = ()) -> None:
        """A started ticket reached nobody: it waits again where it stood, and is charged nothing.

        `tickets`: everybody who waits again, when others came along.
        """
        backend = self._backend_of(ticket_id)
        ticket = backend.leases.pop(ticket_id).ticket
        if ticket.is_load:
            backend.loading = None
        for each in tickets or (ticket,):
            self._turn_at[each.agent] = -math.inf
            self.push(each)

    def settle(
        self, ticket_id: str, now: float, *, ended_well: bool = True, parts: Sequence[tuple[Ticket, float]] = ()
    ) -> Lease:
        """Free the slot of a started ticket and charge its agent and class for the time it held it.

        `parts`: those who shared it, with the weights by which they are charged.
        """
        backend = self._backend_of(ticket_id)
        lease = backend.leases.pop(ticket_id)
        held_s = now - lease.started_at
        parts = parts or [(lease.ticket, 1.0)]
        whole = sum(weight for _, weight in parts)
        for ticket, weight in parts:
            self._shares.charge(ticket.agent, ticket.agent_class, held_s * weight / whole, now)
        if lease.ticket.is_load:
            backend.loading = None
            # What this load pushed out is not known yet; a needless load call costs a millisecond, a stale belief a swap.
            backend.resident = frozenset({lease.ticket.model} if ended_well and lease.ticket.model is not None else ())
        elif ended_well:
            self.service.note(lease.ticket.model, held_s, is_embedding=lease.ticket.is_embedding)
        self._forget_idle_agents(now)
        return lease

    def loaded(self, backend: str, model: str, *, is_resident: bool) -> None:
        """A `Load` came to its end. When it did not make the model resident its calls go without, and get the real error.

        Say what else is resident (`backend_ready`) before this: the load may have pushed another model out.
        """
        b = self._backends[backend]
        b.loading = None
        if is_resident:
            b.resident |= {model}
        else:
            b.unloadable |= {model}

    def backend_ready(
        self,
        backend: str,
        *,
        resident: frozenset[str],
        installed: frozenset[str] = frozenset(),
        model_slots: Mapping[str, int] | None = None,
    ) -> None:
        """The backend answers, and this is what it holds. `model_slots`: models that serve fewer calls than it has slots."""
        b = self._backends[backend]
        b.is_ready = True
        b.resident = resident
        b.installed = installed
        b.unloadable = frozenset()
        b.model_slots = dict(model_slots or {})

    def limit_model(self, backend: str, model_slots: Mapping[str, int]) -> None:
        """It became known which models serve fewer calls at once than the backend has slots."""
        self._backends[backend].model_slots = dict(model_slots)

    def backend_lost(self, backend: str) -> None:
        """The backend does not answer: nothing starts there. What runs ends by itself."""
        b = self._backends[backend]
        b.is_ready = False
        b.resident = frozenset()
        b.wanted.clear()

    def allow(self, backend: str, starts: float) -> None:
        """So many calls and loads may still begin there: none, one to find out, or any number (infinity)."""
        self._backends[backend].may_start = starts

    def hold(self, backend: str, model: str | None) -> None:
        """Start nothing of this model there (None: nothing at all) until `release`. What runs goes on, what waits waits."""
        self._backends[backend].held.add(model)

    def release(self, backend: str, model: str | None) -> None:
        """Undo `hold`."""
        self._backends[backend].held.discard(model)

    def hold_loads(self, backend: str, is_held: bool) -> None:
        """Load nothing there while this holds, and start what is loaded."""
        self._backends[backend].holds_loads = is_held

    def waiting_models(self) -> Counter[str | None]:
        """Return how many wait for each model."""
        return self._waiting.models()

    def want(self, load: Load) -> None:
        """Load this model as soon as that may be, before anything else starts there."""
        wanted = self._backends[load.backend].wanted
        if load not in wanted:
            wanted.append(load)

    # --- the decision --------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """Return everything that is to be done now."""
        effects: list[Effect] = [Expire(ticket) for ticket in self._waiting.advance(now)]
        is_done = False
        while not is_done:
            is_done = True
            for backend in sorted((b for b in self._backends.values() if b.has_room), key=lambda b: (b.is_cpu, b.busy)):
                effect = self._begin(backend, now)
                if effect is not None:
                    backend.may_start -= 1
                    effects.append(effect)
                    is_done = False
                    break
        return effects

    def _begin(self, backend: BackendSlots, now: float) -> Start | Load | None:
        """Begin what is to begin next on a backend that has room."""
        if backend.wanted and not backend.holds_loads:
            return None if backend.awaits_arrivals(now, self.policy.arrival_s) else self._load(backend, backend.wanted.pop(0))
        ticket = self._choose(backend, now)
        if ticket is None:
            return None
        if (ticket.is_load or backend.needs_load(ticket)) and backend.awaits_arrivals(now, self.policy.arrival_s):
            return None
        if not backend.needs_load(ticket):
            return self._start(ticket, backend, now)
        assert ticket.model is not None
        backend.bypassed = 0
        return self._load(backend, Load(backend.name, ticket.model, ticket.is_embedding))

    @staticmethod
    def _load(backend: BackendSlots, load: Load) -> Load:
        backend.loading = load.model
        return load

    def next_decision_at(self, now: float) -> float:
        """Return when the passing of time alone changes a decision: a not-before, a start-by, an arrival. Infinity: never."""
        if not self._waiting and not any(backend.wanted for backend in self._backends.values()):
            return math.inf
        leases = (lease for backend in self._backends.values() for lease in backend.leases.values() if not lease.has_arrived)
        arrivals = (lease.started_at + self.policy.arrival_s for lease in leases)
        return min(self._waiting.next_time(), min((t for t in arrivals if t > now), default=math.inf))

    def _backend_of(self, ticket_id: str) -> BackendSlots:
        return next(backend for backend in self._backends.values() if ticket_id in backend.leases)

    def _start(self, ticket: Ticket, backend: BackendSlots, now: float) -> Start:
        riders = self._riders(ticket, backend, now)  # 6
        for each in (ticket, *riders):
            self.remove(each.id)
            self._turn_at[each.agent] = now
        estimate_s = self.service.of(ticket.model, is_embedding=ticket.is_embedding)
        backend.leases[ticket.id] = Lease(ticket, backend.name, now, estimate_s)
        if ticket.is_load:
            backend.loading = ticket.model
        return Start(ticket, backend.name, tuple(riders))

    def _riders(self, ticket: Ticket, backend: BackendSlots, now: float) -> list[Ticket]:
        riders = self._waiting.twins(ticket)
        if ticket.merges is None or backend.has_more_room(ticket.model):
            return riders
        twins = {twin.id for twin in riders}
        others = [other for other in self._waiting.mergeable(ticket) if other.id not in twins]
        merged = merge(ticket, others, self.policy.batch, now)
        riders = [*riders, *merged, *(twin for each in merged for twin in self._waiting.twins(each))]
        return list({rider.id: rider for rider in riders}.values())

    def _choose(self, backend: BackendSlots, now: float) -> Ticket | None:
        if self.is_paused:
            return None
        heads = [(self._turn_key(entry), entry[1], entry[2]) for entry in self._startable(backend)]  # 1
        if not heads:
            return None
        under_floor = self._class_under_floor(heads, now)  # 2
        if under_floor is not None:
            heads = [head for head in heads if head[2].agent_class == under_floor]
        first = self._first(heads, now)  # 3, 4
        if not backend.needs_load(first):
            return first
        at_hand = [head for head in heads if not backend.needs_load(head[2])]  # 5
        if not at_hand or backend.bypassed >= self.policy.bypass_max:
            return first
        backend.bypassed += 1
        return self._first(at_hand, now)

    def _startable(self, backend: BackendSlots) -> Iterator[Entry]:
        heads = self._waiting.heads(lambda model: self._placement.may_go(model, backend))
        return (head for head in heads if self._placement.suits(head[2], backend))

    def _turn_key(self, entry: Entry) -> float:
        """The key with which a ticket competes: of its arrival, or of the beginning of its agent's turn if that was later."""
        ticket = entry[2]
        return max(ticket.arrived_at, self._turn_at[ticket.agent]) + ticket.priority * self.policy.level_s

    def _first(self, heads: list[Entry], now: float) -> Ticket:
        """The one whose agent has used least for its weight, of those who came within the band of the first."""
        band_end = min(head[0] for head in heads) + self.policy.band_s
        band = [head for head in heads if head[0] < band_end]
        if len(band) == 1:
            return band[0][2]
        running: defaultdict[str, float] = defaultdict(float)
        for ticket, seconds in self._running(now):
            running[ticket.agent] += seconds

        def order(head: Entry) -> tuple[float, float, int]:
            key, sequence, ticket = head
            return (self._shares.used_s(ticket.agent, now) + running[ticket.agent]) / ticket.weight, key, sequence

        return min(band, key=order)[2]

    def _class_under_floor(self, heads: list[Entry], now: float) -> str | None:
        """The class furthest below its floor that has somebody who has waited long enough."""
        patient = {ticket.agent_class for _, _, ticket in heads if now - ticket.arrived_at >= self.policy.floor_patience_s}
        running = ((ticket.agent_class, seconds) for ticket, seconds in self._running(now))
        return self._shares.below(self.policy.floor, patient, running, now)

    def _running(self, now: float) -> Iterator[tuple[Ticket, float]]:
        """What runs, with the slot-seconds for which it will be charged."""
        for backend in self._backends.values():
            for lease in backend.leases.values():
                yield lease.ticket, max(now - lease.started_at, lease.estimate_s)

    def _forget_idle_agents(self, now: float) -> None:
        """An agent whose use has faded and who waits for nothing is as good as new: guests' names must not pile up."""
        if len(self._turn_at) <= 512:
            return
        idle = [name for name in self._turn_at if not self._waiting.count_of(name) and self._shares.has_used_nothing(name, now)]
        self._shares.forget(idle)
        for name in idle:
            del self._turn_at[name]

    # --- looks ---------------------------------------------------------------------------------------------------------

    def waiting(self, ticket_id: str) -> Ticket | None:
        """Return a waiting ticket."""
        return self._waiting.get(ticket_id)

    def on_connections(self) -> Collection[Ticket]:
        """Those that somebody waits for on a connection: not asynchronous. In no order."""
        return self._waiting.on_connections()

    def queued_of(self, agent: str) -> int:
        """Return how many of this agent's requests wait."""
        return self._waiting.count_of(agent)

    def queued_async(self, agent: str | None = None) -> int:
        """Return how many asynchronous requests wait, of all or of one agent."""
        return self._waiting.count_async(agent)

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def slots(self) -> int:
        """How many may run."""
        return sum(backend.slots for backend in self._backends.values())

    def holds_slot(self, ticket_id: str) -> bool:
        """Return whether a started ticket has not been settled yet."""
        return any(ticket_id in backend.leases for backend in self._backends.values())

    def leases(self, backend: str) -> tuple[Lease, ...]:
        """Return the slots of a backend that are in use."""
        return tuple(self._backends[backend].leases.values())

    def busy(self, backend: str) -> int:
        """Return how many slots of a backend are in use, a load included."""
        return self._backends[backend].busy

    def loading(self, backend: str) -> str | None:
        """Return the model that a backend loads now."""
        return self._backends[backend].loading

    def resident(self, backend: str) -> frozenset[str]:
        """Return the models a backend holds, as far as is known."""
        return self._backends[backend].resident

    def in_flight(self, backend: str, model: str | None) -> int:
        """Return how many calls and loads of this model (None: of any) run on a backend."""
        b = self._backends[backend]
        if model is None:
            return b.busy
        loads = b.loading == model and not any(lease.ticket.is_load for lease in b.leases.values())
        return sum(lease.ticket.model == model for lease in b.leases.values()) + loads

    def is_wanted(self, load: Load) -> bool:
        """Return whether a load that was asked for is still to come to its end."""
        b = self._backends[load.backend]
        return load in b.wanted or b.loading == load.model

    def model_slots(self, backend: str, model: str) -> int:
        """Return how many calls of this model a backend serves at once."""
        b = self._backends[backend]
        return min(b.model_slots.get(model, b.slots), b.slots)

    def order(self, count: int | None = None) -> list[Ticket]:
        """Return the waiting, or the first `count`, in about the order they would start: in turns, by key within a turn."""
        return self._waiting.order(self._turn_key, count)

    def priorities(self, now: float) -> list[PriorityStanding]:
        """Return how each priority stands that somebody waits with, the best first."""
        levels = self._waiting.levels()
        starts = self.newcomers_start(levels, now) or {}
        return [PriorityStanding(level, count, oldest_at, starts.get(level)) for level, (count, oldest_at) in levels.items()]

    def standing(self, ticket_id: str, now: float) -> Standing | None:
        """Return where a waiting ticket stands and what it waits for, in words for people; None when it does not wait."""
        ticket = self._waiting.get(ticket_id)
        if ticket is None:
            return None
        return Standing(self._waiting.ahead(ticket_id, self._turn_key), self.reason(ticket, now))

    def forecast(self, mine: Ticket, now: float, *, entering: Iterable[Ticket] = (), until: float = math.inf) -> Forecast | None:
        """Return when a ticket will start, `entering` being those about to be pushed; None while no backend answers.

        `mine` waits, or is one of `entering`, or is put behind both. What starts after `until` is only reckoned.
        """
        lanes = self._lanes(now, mine)
        if lanes is None:
            return None
        extra = list(entering)
        if mine.id not in self._waiting and all(ticket.id != mine.id for ticket in extra):
            extra.append(mine)
        return forecast(mine, self._lines(extra), lanes, self.service, now=now, until=until)

    def newcomers_start(self, priorities: Iterable[int], now: float) -> dict[int, float] | None:
        """Return when a request of each priority would start that came now, from an agent with nothing waiting.

        None while no backend answers, or the queue is paused.
        """
        lanes = self._lanes(now)
        if lanes is None:
            return None
        return newcomers_start(priorities, self._lines(()), lanes, self.service, now=now, level_s=self.policy.level_s)

    def _lines(self, extra: Iterable[Ticket]) -> list[Line]:
        lines = self._waiting.lines(extra)
        return [Line(self._turn_at.get(agent, -math.inf), line) for agent, line in lines]

    def _lanes(self, now: float, mine: Ticket | None = None) -> Lanes | None:
        """The slots of the backends that answer, and that take this one; None when nothing starts at all."""
        ready = [one for one in self._backends.values() if one.is_ready and (mine is None or self._placement.takes(mine, one))]
        if not ready or self.is_paused:
            return None
        limited = {model for backend in ready for model, slots in backend.model_slots.items() if slots > 0}
        return Lanes(
            tuple(at for backend in ready for at in backend.free_at(now)),
            {model: tuple(at for backend in ready for at in backend.model_free_at(model, now)) for model in limited},
        )

    def reason(self, ticket: Ticket, now: float) -> str:
        """Return why a waiting ticket waits, in words for people."""
        return self._why(ticket, now)[1]

    def cause(self, ticket: Ticket, now: float) -> WaitCause:
        """Return the same in one word for programs."""
        return self._why(ticket, now)[0]

    def _why(self, ticket: Ticket, now: float) -> tuple[WaitCause, str]:
        having = [backend for backend in self._backends.values() if self._placement.has(backend, ticket.model)]
        return why(ticket, self._backends.values(), having, is_paused=self.is_paused, now=now)
