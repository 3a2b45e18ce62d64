"""Which entries were read since the hand of the eviction last came by: one bit each, in memory only.

A set of numbers would take 60 bytes an entry (a file of 1 GB holds a million); these are bits in blocks of 1024, and a block
that has none is not there.
"""

from __future__ import annotations

_SHIFT, _MASK = 10, 1023


class Visited:
    """A set of numbers that lie close together."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return bool(self._blocks.get(number >> _SHIFT, 0) >> (number & _MASK) & 1)

    def add(self, number: int) -> None:
        block = number >> _SHIFT
        self._blocks[block] = self._blocks.get(block, 0) | 1 << (number & _MASK)

    def discard(self, number: int) -> None:
        block = number >> _SHIFT
        bits = self._blocks.get(block, 0) & ~(1 << (number & _MASK))
        if bits:
            self._blocks[block] = bits
        else:
            self._blocks.pop(block, None)

    def clear(self) -> None:
        self._blocks.clear()
