"""Speaks HTTP/1.1 to Ollama over any stream of bytes, for httpx and for the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class ByteStream(Protocol):
    """One connection to Ollama. Raises errors.PeerGone for what a socket calls reset, broken pipe or closed."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes: ...

    async def aclose(self) -> None: ...


Dialer = Callable[[], Awaitable[ByteStream]]


def dial_tcp(host: str, port: int) -> Dialer:
    """Return a dialer of this TCP address."""
    raise NotImplementedError


def dial_unix(path: str) -> Dialer:
    """Return a dialer of this Unix socket."""
    raise NotImplementedError
