"""Both ends of a connection in each of its forms, for the suites that hold them to one behaviour."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

from supervisord_ai.ollama.streams import RawStream
from supervisord_ai.serve.connection import Connection, MemoryClient, SocketConnection, memory_pair

KINDS = ("unix", "tcp", "memory-unix", "memory-tcp")


class Caller(Protocol):
    """The calling end, as the tests drive it."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes: ...

    def half_close(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class SocketCaller(RawStream):
    """A real socket with the manners of `MemoryClient`."""

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        if self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._socket.close()


@dataclass(frozen=True)
class Ends:
    """One connection: the calling end, and the serving one under test."""

    caller: Caller
    served: Connection


def connect(kind: str) -> Ends:
    """Return a fresh connection of this kind. Real ones are small of buffer, so that a slow reader is soon noticed."""
    if kind.startswith("memory"):
        caller, served = memory_pair(kind)
        return Ends(caller, served)
    if kind == "unix":
        ours, theirs = socket.socketpair(socket.AF_UNIX)
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    return Ends(SocketCaller(theirs), SocketConnection(ours))


def is_memory(ends: Ends) -> bool:
    return isinstance(ends.caller, MemoryClient)


async def read_to_end(caller: Caller) -> bytes:
    """Everything until the serving end closes."""
    received = b""
    while data := await caller.receive_some():
        received += data
    return received
