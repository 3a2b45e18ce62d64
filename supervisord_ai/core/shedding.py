"""Decides which agents end when memory must come back, and which come back first. Knows nothing of memory's measure.

The order is declared: lowest class priority first (10 before 5), in a class the one that has been idle longest, among equals the
one that stands last in the roster. A critical agent is never shed. Whoever went last, the most important of them, comes back
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

AT_ONCE = 10  # as many as a batch of starts: their end costs processor time too


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that runs. `idle_s`: since its last request; `bytes` is its memory, None where nobody knows."""

    name: str
    priority: int
    is_critical: bool
    idle_s: float
    bytes: int | None
    place: int = 0  # in the roster


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return those that may be shed, the first to go first."""
    return sorted((one for one in candidates if not one.is_critical), key=lambda c: (-c.priority, -c.idle_s, -c.place))


def choose(candidates: Iterable[Candidate], need_bytes: int) -> list[Candidate]:
    """Return who is to end so that so much comes back: at least one if there is one, at most `AT_ONCE`."""
    chosen: list[Candidate] = []
    freed = 0
    for one in in_order(candidates)[:AT_ONCE]:
        if chosen and freed >= need_bytes:
            break
        chosen.append(one)
        freed += one.bytes or 0
    return chosen


@dataclass(slots=True)
class ShedList:
    """Who was shed, in that order, with the memory each had."""

    bytes_of: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.bytes_of)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.bytes_of)

    def add(self, chosen: Iterable[Candidate]) -> None:
        """Note that these were told to end."""
        for one in chosen:
            self.bytes_of.pop(one.name, None)
            self.bytes_of[one.name] = one.bytes or 0

    def ending_bytes(self, alive: Mapping[str, bool]) -> int:
        """Return what those will give back that have not ended yet."""
        return sum(size for name, size in self.bytes_of.items() if alive.get(name))

    def forget(self, name: str) -> None:
        """It is no longer ours to bring back: its owner spoke, or it left the fleet."""
        self.bytes_of.pop(name, None)

    def next_back(self, room_bytes: int, alive: Mapping[str, bool]) -> str | None:
        """Return who comes back now: the last that was shed and has ended, where it fits. It is on the list no more."""
        for name in reversed(self.bytes_of):
            if not alive.get(name):
                if self.bytes_of[name] > room_bytes:
                    return None
                del self.bytes_of[name]
                return name
        return None
