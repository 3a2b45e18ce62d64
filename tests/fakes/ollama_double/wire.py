"""A connection that ends where a test wants it to."""

from __future__ import annotations

import socket

import trio
import trio.lowlevel

from supervisord_ai.errors import PeerGone
from supervisord_ai.serve.connection import Connection, Peer


class CuttableConnection:
    """Any connection, which can be told to end after so many more bytes: by an end, or by a reset."""

    def __init__(self, inner: Connection, *, fragment_bytes: int | None = None) -> None:
        self._inner = inner
        self._fragment_bytes = fragment_bytes
        self.peer: Peer = inner.peer
        self.raw: socket.socket | None = inner.raw
        self.whose = ""
        self._left: int | None = None
        self._is_reset = False

    @property
    def write_timeout_s(self) -> float:
        return self._inner.write_timeout_s

    @write_timeout_s.setter
    def write_timeout_s(self, seconds: float) -> None:
        self._inner.write_timeout_s = seconds

    def break_after(self, byte_count: int, *, is_reset: bool) -> None:
        self._left = byte_count
        self._is_reset = is_reset

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        size = self._fragment_bytes or len(data)
        for at in range(0, len(data), size):
            await self._send_one(data[at : at + size])
            if self._fragment_bytes:
                await trio.lowlevel.checkpoint()  # so that the reader sees this piece by itself

    async def _send_one(self, data: bytes) -> None:
        if self._left is None:
            await self._inner.send_all(data)
            return
        kept = data[: self._left]
        self._left -= len(kept)
        if kept:
            await self._inner.send_all(kept)
        if self._left == 0:
            # Closed even when the cut falls on the last byte: whether the answer was whole is for the reader to know.
            (self._inner.abort if self._is_reset else self._inner.close)()
            raise PeerGone("cut as scripted")

    async def wait_gone(self) -> None:
        await self._inner.wait_gone()

    def send_eof(self) -> None:
        self._inner.send_eof()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()
