"""One connection, in two forms that behave alike: a raw non-blocking socket, and a pair in memory for virtual time."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the transport says."""

    kind: str  # "unix" | "tcp" | "memory-unix" | "memory-tcp"
    address: str  # for logs
    facts: object | None = None  # what an in-memory test says of the peer; None for real sockets: ask the kernel


class Connection(Protocol):
    """A stream of bytes each way. One task reads, one task writes, any task may wait for the peer to be gone."""

    peer: Peer
    raw: socket.socket | None
    write_timeout_s: float

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, waiting for the first byte; b"" after the peer's end or half-close.

        Raises: PeerGone after a reset.
        """

    async def send_all(self, data: bytes) -> None:
        """Hand every byte to the transport. Raises: PeerGone, also when no byte was taken for `write_timeout_s`."""

    async def wait_gone(self) -> None:
        """Return when the peer can no longer read an answer, or this side was closed. Reads nothing.

        Unix: hang-up only, a half-close is a caller still waiting. TCP: FIN or RST.
        """

    def send_eof(self) -> None:
        """Say that no more bytes will come; reading goes on."""

    def close(self) -> None:
        """End both directions at once; whoever waits here is woken."""

    def abort(self) -> None:
        """Close so that the peer sees an error rather than an end, where the transport can say so (TCP, memory)."""


class MemoryConnection:
    """The serving end of a pair in memory."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.raw: socket.socket | None = None
        self.write_timeout_s = 60.0

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        raise NotImplementedError

    async def send_all(self, data: bytes) -> None:
        raise NotImplementedError

    async def wait_gone(self) -> None:
        raise NotImplementedError

    def send_eof(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


class MemoryClient:
    """The calling end of a pair in memory."""

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        raise NotImplementedError

    async def send_all(self, data: bytes) -> None:
        raise NotImplementedError

    def half_close(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.close()


def memory_pair(kind: str = "memory-unix", facts: object | None = None) -> tuple[MemoryClient, MemoryConnection]:
    """Return both ends of a connection in memory."""
    raise NotImplementedError
