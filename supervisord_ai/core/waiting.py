"""Keeps who waits, so that a decision costs the same whether 50 wait or 50,000. Decides nothing, and knows no slots.

Five indexes over the same tickets, each for one question:
- by agent, sorted by key: how many of this agent wait, and who stands where (`count_of`, `order`, `ahead`).
- by agent and model, sorted by key: who of each agent could start now (`heads`). Only tickets whose not-before time has come
  are in it: 400 requests of an agent that is over its rate cost nothing until they are due.
- by start-by time and by not-before time, two heaps: whom the passing of time concerns (`advance`, `next_time`).
- by what they share: who is answered by the same upstream call (`twins`), whose texts may go into one list (`mergeable`).

A ticket that leaves stays in the heaps until its time comes, or until half of a heap is such leftovers.
A ticket's key never changes, so nothing is ever re-sorted.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mergeable:
    """What may go into one list with others of the same `key`, and how much it would put in."""

    key: bytes
    items: int
    chars: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the scheduler knows of one waiting request. Times are monotonic seconds.

    `start_by`: it is never started at or after that. `not_before`: not earlier than that (its rate; the grace of an orphan).
    `model` is canonical; None asks for none. `is_load` tickets are the caller's own load calls: they use the load lane.
    `shares`: tickets with the same one are answered by one call. `merges`: tickets with the same key may become one call.
    `is_async`: nobody waits for it on a connection.
    """

    id: str
    agent: str
    agent_class: str
    priority: int
    arrived_at: float
    start_by: float
    model: str | None = None
    weight: float = 1.0
    not_before: float = -math.inf
    is_embedding: bool = False
    is_load: bool = False
    shares: bytes | None = None
    merges: Mergeable | None = None
    is_async: bool = False


Entry = tuple[float, int, Ticket]
"""Key, sequence, ticket. Two entries differ in their sequence at the latest, so tickets are never compared."""

_Time = tuple[float, int, str]  # when, sequence, ticket id


class Waiting:
    """The waiting tickets. `level_s`: how many seconds of age one level of priority is worth."""

    def __init__(self, level_s: float) -> None:
        self._level_s = level_s
        self._entries: dict[str, Entry] = {}
        self._by_agent: dict[str, list[Entry]] = {}
        self._startable: dict[str, dict[str | None, list[Entry]]] = {}
        self._start_by: list[_Time] = []
        self._not_before: list[_Time] = []
        self._sequence = 0
        self._alike: dict[tuple[str, bytes], dict[str, Ticket]] = {}
        self._async: Counter[str] = Counter()  # by agent
        self._on_connections: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._entries

    def on_connections(self) -> Collection[Ticket]:
        """Those that somebody waits for on a connection: not asynchronous. In no order."""
        return self._on_connections.values()

    def models(self) -> Counter[str | None]:
        """How many wait for each model."""
        return Counter(entry[2].model for entry in self._entries.values())

    # --- in and out ----------------------------------------------------------------------------------------------------

    def push(self, ticket: Ticket) -> None:
        """Add a ticket. Raises: ValueError when one of this id waits already."""
        if ticket.id in self._entries:
            raise ValueError(f"ticket {ticket.id} is already waiting")
        self._sequence += 1
        entry = (ticket.arrived_at + ticket.priority * self._level_s, self._sequence, ticket)
        self._entries[ticket.id] = entry
        if ticket.is_async:
            self._async[ticket.agent] += 1
        else:
            self._on_connections[ticket.id] = ticket
        for place in _alike(ticket):
            self._alike.setdefault(place, {})[ticket.id] = ticket
        insort(self._by_agent.setdefault(ticket.agent, []), entry)
        if ticket.not_before > -math.inf:
            heapq.heappush(self._not_before, (ticket.not_before, self._sequence, ticket.id))
        else:
            self._make_startable(entry)
        if ticket.start_by < math.inf:
            heapq.heappush(self._start_by, (ticket.start_by, self._sequence, ticket.id))

    def remove(self, ticket_id: str) -> Ticket | None:
        """Take a ticket out; None when it does not wait."""
        entry = self._entries.pop(ticket_id, None)
        if entry is None:
            return None
        ticket = entry[2]
        if ticket.is_async:
            self._async[ticket.agent] -= 1
        else:
            del self._on_connections[ticket_id]
        for place in _alike(ticket):
            del self._alike[place][ticket_id]
            if not self._alike[place]:
                del self._alike[place]
        if _take(self._by_agent[ticket.agent], entry):
            del self._by_agent[ticket.agent]
        lanes = self._startable.get(ticket.agent, {})
        if ticket.model in lanes and _take(lanes[ticket.model], entry):
            del lanes[ticket.model]
            if not lanes:
                del self._startable[ticket.agent]
        self._start_by = self._without_leftovers(self._start_by)
        self._not_before = self._without_leftovers(self._not_before)
        return ticket

    def advance(self, now: float) -> list[Ticket]:
        """Let time pass: whose not-before time has come may start, whose start-by time has passed is taken out and returned."""
        while (due := self._first(self._not_before)) is not None and due[0] <= now:
            heapq.heappop(self._not_before)
            self._make_startable(self._entries[due[2]])
        expired = []
        while (late := self._first(self._start_by)) is not None and late[0] <= now:
            ticket = self.remove(late[2])
            assert ticket is not None
            expired.append(ticket)
        return expired

    def _make_startable(self, entry: Entry) -> None:
        ticket = entry[2]
        insort(self._startable.setdefault(ticket.agent, {}).setdefault(ticket.model, []), entry)

    # --- time ----------------------------------------------------------------------------------------------------------

    def next_time(self) -> float:
        """Return the next instant at which `advance` will find something. Infinity: never."""
        firsts = (self._first(self._not_before), self._first(self._start_by))
        return min((first[0] for first in firsts if first is not None), default=math.inf)

    def _first(self, times: list[_Time]) -> _Time | None:
        while times and not self._is_current(times[0]):
            heapq.heappop(times)
        return times[0] if times else None

    def _is_current(self, time: _Time) -> bool:
        """Whether it is of a ticket that waits: the same one, not one that was put back under its id."""
        entry = self._entries.get(time[2])
        return entry is not None and entry[1] == time[1]

    def _without_leftovers(self, times: list[_Time]) -> list[_Time]:
        if len(times) <= 2 * len(self._entries) + 64:
            return times
        current = [time for time in times if self._is_current(time)]
        heapq.heapify(current)
        return current

    # --- looks ---------------------------------------------------------------------------------------------------------

    def twins(self, ticket: Ticket) -> list[Ticket]:
        """The others that wait and would be answered by the call of this one, first come first."""
        alike = self._alike.get(("shares", ticket.shares), {}) if ticket.shares is not None else {}
        return [twin for twin in alike.values() if twin.id != ticket.id]

    def mergeable(self, ticket: Ticket) -> list[Ticket]:
        """The others that wait and whose texts may go into one list with those of this one, first come first."""
        alike = self._alike.get(("merges", ticket.merges.key), {}) if ticket.merges is not None else {}
        return [other for other in alike.values() if other.id != ticket.id]

    def heads(self, can_take: Callable[[str | None], bool]) -> Iterator[Entry]:
        """The first ticket of each agent that could start now, on a backend that can take calls of these models."""
        takes: dict[str | None, bool] = {}
        for lanes in self._startable.values():
            head: Entry | None = None
            for model, lane in lanes.items():
                if model not in takes:
                    takes[model] = can_take(model)
                if takes[model] and (head is None or lane[0] < head):
                    head = lane[0]
            if head is not None:
                yield head

    def get(self, ticket_id: str) -> Ticket | None:
        """Return a waiting ticket."""
        entry = self._entries.get(ticket_id)
        return entry[2] if entry is not None else None

    def count_async(self, agent: str | None = None) -> int:
        """Return how many wait for whom nobody waits on a connection, of all or of one agent."""
        return self._async.total() if agent is None else self._async[agent]

    def count_of(self, agent: str) -> int:
        """Return how many tickets of this agent wait."""
        return len(self._by_agent.get(agent, ()))

    def lines(self, entering: Iterable[Ticket] = ()) -> list[tuple[str, list[Entry]]]:
        """Return who waits, by agent, first first; with `entering` put in, which do not wait yet. Not to be changed."""
        lines = dict(self._by_agent)
        for number, ticket in enumerate(entering, self._sequence + 1):
            line = list(lines.get(ticket.agent, ()))
            insort(line, (ticket.arrived_at + ticket.priority * self._level_s, number, ticket))
            lines[ticket.agent] = line
        return list(lines.items())

    def order(self, key_of: Callable[[Entry], float], count: int | None = None) -> list[Ticket]:
        """Return all of them, or the first `count`, in about the order they would start: in turns, by key within a turn."""
        ranked = [
            (turn, key_of(entry), entry[1], entry[2])
            for mine in self._by_agent.values()
            for turn, entry in enumerate(mine[:count])  # of one line no more can be among the first
        ]
        first = heapq.nsmallest(len(ranked) if count is None else count, ranked, key=lambda entry: entry[:3])
        return [entry[3] for entry in first]

    def levels(self) -> dict[int, tuple[int, float]]:
        """Return for each priority how many wait, and since when the oldest of them does."""
        counts: dict[int, int] = {}
        oldest: dict[int, float] = {}
        for _, _, ticket in self._entries.values():
            level = ticket.priority
            counts[level] = counts.get(level, 0) + 1
            if ticket.arrived_at < oldest.get(level, math.inf):
                oldest[level] = ticket.arrived_at
        return {level: (counts[level], oldest[level]) for level in sorted(counts)}

    def ahead(self, ticket_id: str, key_of: Callable[[Entry], float]) -> int:
        """Return how many stand before this ticket in `order`, without putting all of them in order."""
        entry = self._entries[ticket_id]
        turn = bisect_left(self._by_agent[entry[2].agent], entry)
        place = (key_of(entry), entry[1])
        count = 0
        for theirs in self._by_agent.values():
            count += min(len(theirs), turn)
            if len(theirs) > turn and (key_of(theirs[turn]), theirs[turn][1]) < place:
                count += 1
        return count


def _take(entries: list[Entry], entry: Entry) -> bool:
    """Remove an entry if it is there; returns whether the list is empty now."""
    place = bisect_left(entries, entry)
    if place < len(entries) and entries[place] is entry:
        del entries[place]
    return not entries


def _alike(ticket: Ticket) -> list[tuple[str, bytes]]:
    places = [("shares", ticket.shares)] if ticket.shares is not None else []
    return [*places, ("merges", ticket.merges.key)] if ticket.merges is not None else places
