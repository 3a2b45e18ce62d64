"""Decides which connection gives way when there are as many as can be held. Knows no sockets, and of names only that they differ.

Whoever has most of them gives: the one of its connections that has been idle longest, and where none is idle the one that has
been busy longest. So a caller that takes all there are takes them from itself, and nobody loses one to a greedier neighbour.
Those of which nobody knows yet whose they are count as one holder's: who says nothing is crowded out by its like.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

# Of the files that may be open, connections get this part. A call that waits needs a second one, an agent five, and there
# must always be some for the owner's questions, for databases and for starting processes.
SHARE_OF_OPEN_FILES = 0.75
OPEN_FILES_MOST = 16_384  # a connection costs memory too, so more of these make no more of those


def connections_most(open_files: int) -> int:
    """Return how many connections there may be at once, of a process that may have so many files open."""
    return int(SHARE_OF_OPEN_FILES * min(open_files, OPEN_FILES_MOST))


class Crowd(Generic[T]):
    """The open connections of a process, each of somebody or of nobody yet (""), each busy or idle."""

    def __init__(self, most: float = float("inf")) -> None:
        """`most`: how many there may be."""
        self.most = most
        self._holder: dict[T, str] = {}
        self._held: dict[str, dict[T, bool]] = {}  # of each holder, in the order in which they last changed: is it busy?

    def __len__(self) -> int:
        return len(self._holder)

    def __repr__(self) -> str:
        return f"<Crowd {len(self)} of {self.most}, {len(self._held)} holders>"

    @property
    def is_full(self) -> bool:
        return len(self._holder) >= self.most

    def note(self, one: T, holder: str, *, is_busy: bool) -> None:
        """A connection has come, turned out to be somebody's, got busy or idle."""
        self.leave(one)
        self._holder[one] = holder
        self._held.setdefault(holder, {})[one] = is_busy

    def leave(self, one: T) -> None:
        """A connection has ended."""
        holder = self._holder.pop(one, None)
        if holder is None:
            return
        held = self._held[holder]
        del held[one]
        if not held:
            del self._held[holder]

    def gives(self) -> tuple[T, str, int] | None:
        """Return the connection that has to go when one must, whose it is, and how many of them it has; None: there is none."""
        if not self._held:
            return None
        holder = max(self._held, key=lambda name: len(self._held[name]))
        held = self._held[holder]
        idle = next((one for one, is_busy in held.items() if not is_busy), None)
        return idle if idle is not None else next(iter(held)), holder, len(held)
