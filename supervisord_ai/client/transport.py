"""Carries httpx requests to the supervisor, and sends one again when the supervisor was restarted meanwhile.

A restart cuts every connection, but not the work: an accepted request is in the journal, and a caller that comes back with
the same `Idempotency-Key` is joined to it, or given the answer that was made meanwhile. So each inference call gets a key, if
it has none, and is sent again with that key until there is an answer or `patience_s` is over.

Sent again is:

1. any request whose connection could not be made, since nobody has seen it;
2. an inference call or a GET whose connection ended before the first byte of the answer's body.

Nothing is sent again after the first byte of a body, which the caller has read: a second answer need not continue the first,
so the cut reaches the caller as httpx tells it. Nor is anything else that changes something (pull, delete), where no key
joins the second to the first. A refusal (429, 503) is an answer: whoever is told to come back later decides that himself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import anyio
import httpx

log = logging.getLogger(__name__)

KEY = "Idempotency-Key"
# What the supervisor journals, so that a key means something.
JOURNALLED = (
    *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
)
PATIENCE_S = 120.0  # a restart takes seconds, a reboot of the machine a minute or two
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

_NOT_CONNECTED = (httpx.ConnectError,)
_CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Requests that were asked for, and how often one was sent again."""

    requests: int
    sent_again: int


class Transport(httpx.AsyncBaseTransport):
    """An httpx transport for the supervisor's Unix socket. Works on asyncio and trio, one at a time.

    `patience_s` is how long one request is tried while nobody answers; 0 sends everything once. `inner` is what carries
    one attempt: httpx's own transport on that socket.
    """

    def __init__(self, socket: str, *, patience_s: float = PATIENCE_S, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._socket = socket
        self._patience_s = patience_s
        # The supervisor holds many callers at once; a limit here would make an agent wait for itself.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._inner = inner if inner is not None else httpx.AsyncHTTPTransport(uds=socket, limits=limits)
        self._requests = self._sent_again = 0

    def __repr__(self) -> str:
        return f"<Transport {self._socket} requests={self._requests} sent_again={self._sent_again}>"

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(self._requests, self._sent_again)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer once the first byte of its body is here.

        Raises:
            httpx.TransportError: as httpx's own transport, once nothing more is tried.
        """
        self._requests += 1
        is_repeatable = await _made_repeatable(request)
        deadline = anyio.current_time() + self._patience_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._attempt(request)
            except (*_NOT_CONNECTED, *_CUT) as error:
                # Half the time is chance: all agents were cut at the same instant, and shall not come back at one.
                wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
                was_seen = not isinstance(error, _NOT_CONNECTED)
                if (was_seen and not is_repeatable) or anyio.current_time() + wait_s > deadline:
                    raise
                if pause_s == FIRST_PAUSE_S:  # once a request: whoever mistyped the path should not wait in silence
                    log.warning("%s: %r; trying again for up to %.0f s", self._socket, error, self._patience_s)
            await anyio.sleep(wait_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._sent_again += 1

    async def _attempt(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = _Body(response.stream)
        try:
            await body.read_first()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await body.aclose()
            raise
        return httpx.Response(response.status_code, headers=response.headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _made_repeatable(request: httpx.Request) -> bool:
    """Give a request what it takes to be sent a second time, a key and a body that can be read again; False: it may not be."""
    if request.method in {"GET", "HEAD"}:
        return True
    if request.method != "POST" or not request.url.path.endswith(JOURNALLED):
        return False
    request.headers.setdefault(KEY, uuid4().hex)
    await request.aread()
    return True


class _Body(httpx.AsyncByteStream):
    """The body of an answer, whose first bytes can be waited for before anybody is given the answer."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._pieces = aiter(stream)
        self._first: bytes | None = None

    async def read_first(self) -> None:
        self._first = await anext(self._pieces, None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
            async for piece in self._pieces:
                yield piece

    async def aclose(self) -> None:
        # An iterator left half-read is a generator that nobody ends, and trio says so.
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()
        await self._stream.aclose()
