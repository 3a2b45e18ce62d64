"""How many bytes of request bodies are held at once, over all callers: what would exceed it is told to come back.

A body is held from its head until its answer has been given, since a request that waits must be able to run. Without this
bound a few callers with images could take the memory of everybody (64 waiting requests of 64 MB are 4 GB).

What is counted is a body once, and once is how often it lies here while it comes, waits and is sent: what its caller asked and
what Ollama is sent share their large members (`core/calls.py`, Body), the journal is written and the backend is sent to piece by
piece. Only while it is read is there more of it, up to four times its size beside what is counted; large ones are read one at a
time. `python -m bench.bodies` measures it.
"""

from __future__ import annotations

from supervisord_ai.errors import Refused

RETRY_AFTER_S = 5.0


class Ingest:
    """The room for bodies."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    @property
    def free_bytes(self) -> int:
        """How much more may be held."""
        return max(0, self._limit_bytes - self.held_bytes)

    def held(self, count: int) -> Hold:
        """Hold that many bytes while the block lasts. `Hold.more` of one whose size is not known yet adds to it.

        Raises:
            Refused: 503, there is no room now.
        """
        self.check(count)
        return Hold(self, count)

    def check(self, count: int) -> None:
        """See whether so much more may be held. Raises: Refused, as `held`."""
        if count > self.free_bytes:
            raise Refused(503, "too many bytes of requests wait already", retry_after_s=RETRY_AFTER_S)


class Hold:
    """A part of the room. A class, since two blocks made of generators were 5 % of a cached hit."""

    __slots__ = ("_count", "_room")

    def __init__(self, room: Ingest, count: int) -> None:
        self._room = room
        self._count = count

    def __enter__(self) -> Hold:
        self._room.held_bytes += self._count
        return self

    def more(self, count: int) -> None:
        """Hold so many more. Raises: Refused, as `Ingest.held`."""
        self._room.check(count)
        self._room.held_bytes += count
        self._count += count

    def __exit__(self, *_: object) -> None:
        self._room.held_bytes -= self._count
