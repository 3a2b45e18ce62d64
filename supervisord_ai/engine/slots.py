"""Decides who may run: as many at once as there are slots, first come, first served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass(eq=False)
class Slot:
    """One of llama.cpp's slots. `held`: the tokens it has already read; a prompt that begins with them is read faster."""

    number: int
    held: Sequence[int] = field(default_factory=tuple)


class Slots:
    """The slots and the line before them. trio's semaphore wakes its waiters in the order in which they came."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._turn = trio.Semaphore(count)
        self._idle = [Slot(n) for n in range(count)]

    @asynccontextmanager
    async def take(self, prompt: Sequence[int]) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it for the block; of several idle ones, the one that this prompt fits best.

        Best is least lost: tokens that must be read again now, and tokens thrown away that somebody may still go on from.
        """
        async with self._turn:
            slot = max(self._idle, key=lambda s: (2 * shared_prefix(s.held, prompt) - len(s.held), -s.number))
            self._idle.remove(slot)
            try:
                yield slot
            finally:
                self._idle.append(slot)

    @property
    def busy(self) -> int:
        return self.count - len(self._idle)

    @property
    def waiting(self) -> int:
        return self._turn.statistics().tasks_waiting


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts have in common at their beginning."""
    for n, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return n
    return min(len(a), len(b))
