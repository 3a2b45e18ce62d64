"""How many bytes of request bodies are held at once, over all callers: what would exceed it is told to come back.

A body is held from its head until its answer has been given, since a request that waits must be able to run. Without this
bound a few callers with images could take the memory of everybody (64 waiting requests of 64 MB are 4 GB).
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

    def held(self, count: int) -> _Hold:
        """Hold that many bytes while the block lasts.

        Raises:
            Refused: 503, there is no room now.
        """
        if count > self.free_bytes:
            raise Refused(503, "too many bytes of requests wait already", retry_after_s=RETRY_AFTER_S)
        return _Hold(self, count)


class _Hold:
    """A part of the room. A class, since two blocks made of generators were 5 % of a cached hit."""

    __slots__ = ("_count", "_room")

    def __init__(self, room: Ingest, count: int) -> None:
        self._room = room
        self._count = count

    def __enter__(self) -> None:
        self._room.held_bytes += self._count

    def __exit__(self, *_: object) -> None:
        self._room.held_bytes -= self._count
