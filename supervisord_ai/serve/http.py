"""Serves HTTP/1.1 on one connection or one listener: requests in, exchanges to a handler, Go's manners to the malformed."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from supervisord_ai.errors import Refused
from supervisord_ai.serve.connection import Connection, Peer
from supervisord_ai.wire.http1 import RequestHead

HeaderList = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost us."""

    headers_bytes: int = 64_000
    header_count: int = 128
    body_bytes: int = 64_000_000
    head_timeout_s: float = 30.0  # from the first byte of a head to its last
    body_timeout_s: float = 60.0  # without one byte of a body that is being read
    idle_s: float = 600.0  # between two requests
    write_timeout_s: float = 60.0  # a peer that takes no byte


class Exchange:
    """One request and its answer."""

    def __init__(self, head: RequestHead, connection: Connection) -> None:
        self.head = head
        self.peer: Peer = connection.peer
        self.is_started = False
        self.is_finished = False

    async def body(self, max_bytes: int | None = None) -> bytes:
        """Return the whole body. Raises: Refused (413 too large, 400 broken framing), PeerGone."""
        raise NotImplementedError

    async def respond(self, status: int, headers: HeaderList, body: bytes = b"") -> None:
        """Send one whole answer, with a Content-Length. Raises: PeerGone."""
        raise NotImplementedError

    async def start(self, status: int, headers: HeaderList) -> None:
        """Begin an answer of unknown length; its head goes out with the first `send`."""
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send one piece of a started answer, as one HTTP chunk. Raises: PeerGone."""
        raise NotImplementedError

    async def finish(self) -> None:
        """End a started answer well. Raises: PeerGone."""
        raise NotImplementedError

    async def wait_gone(self) -> None:
        """Return when nobody will read the answer any more."""
        raise NotImplementedError

    def break_off(self) -> None:
        """End the connection without a clean end of the answer, so that nobody takes it for success."""
        raise NotImplementedError


Handler = Callable[[Exchange], Awaitable[None]]
Shape = Callable[[RequestHead | None, Refused], tuple[list[tuple[str, str]], bytes]]


def json_error(_head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Shape a refusal as Ollama's native API does: `{"error": "..."}`."""
    return [("Content-Type", "application/json; charset=utf-8")], json.dumps({"error": refused.message}).encode()


async def serve_connection(
    connection: Connection, handler: Handler, bounds: Bounds = Bounds(), *, shape: Shape = json_error  # noqa: B008
) -> None:
    """Serve requests until the connection ends, then close it. Never raises for what a peer or a handler does."""
    raise NotImplementedError


async def serve_listener(
    listener: socket.socket,
    on_connection: Callable[[Connection], Awaitable[Handler]],
    bounds: Bounds = Bounds(),  # noqa: B008
    *,
    kind: str,
    shape: Shape = json_error,
) -> None:
    """Accept for ever. `on_connection` is called once per connection; a Refused from it answers the first request."""
    raise NotImplementedError
