"""One request and its answer as the double's handlers see it, and the connection they may break under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.http1 import RequestHead

HeaderList = Sequence[tuple[str, str]]


class Wire(Protocol):
    """The connection an answer goes out on."""

    def break_after(self, byte_count: int, *, is_reset: bool) -> None:
        """Ends the connection once so many more bytes were sent."""


class Turn:
    """An exchange, with headers that go on every answer and a wire that can be cut."""

    def __init__(self, exchange: Exchange, wire: Wire) -> None:
        self._exchange = exchange
        self._wire = wire
        self.extra_headers: HeaderList = ()

    @property
    def head(self) -> RequestHead:
        return self._exchange.head

    @property
    def is_started(self) -> bool:
        return self._exchange.is_started

    async def body(self) -> bytes:
        return await self._exchange.body()

    async def respond(self, status: int, headers: HeaderList, body: bytes = b"") -> None:
        await self._exchange.respond(status, [*headers, *self.extra_headers], body)

    async def start(self, status: int, headers: HeaderList) -> None:
        await self._exchange.start(status, [*headers, *self.extra_headers])

    async def send(self, data: bytes) -> None:
        await self._exchange.send(data)

    async def finish(self) -> None:
        await self._exchange.finish()

    async def wait_gone(self) -> None:
        await self._exchange.wait_gone()

    def break_off(self) -> None:
        self._exchange.break_off()

    def break_after(self, byte_count: int, *, is_reset: bool) -> None:
        self._wire.break_after(byte_count, is_reset=is_reset)
