"""Serves HTTP/1.1 on one connection or one listener: requests in, exchanges to a handler, Go's manners to the malformed.

One task a connection; a slow, dead or malicious peer holds only its own. This is the boundary "one connection": whatever a
handler raises ends here, is logged once, and costs at most that connection. Listeners that share a `Crowd` share a bound on
open connections: at the bound, and where the process is out of descriptors, whoever holds most of them loses one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import trio

from supervisord_ai.core.crowd import Crowd
from supervisord_ai.errors import PeerGone, Refused
from supervisord_ai.serve.connection import Connection, SocketConnection
from supervisord_ai.serve.exchange import Bounds, Exchange, Handler, HeaderList, Incoming, Shape, json_error
from supervisord_ai.wire.http1 import Broken, RequestHead

__all__ = [
    "Bounds",
    "Exchange",
    "Handler",
    "HeaderList",
    "OnConnection",
    "OpenConnections",
    "ServeCounts",
    "ServeStatistics",
    "Shape",
    "json_error",
    "serve_connection",
    "serve_listener",
]

log = logging.getLogger(__name__)

OnConnection = Callable[[Connection], Awaitable[Handler]]

# After our last byte a peer may still be sending. Closing at once would make the kernel answer that with a reset, which can
# destroy the answer before it was read: say that we are done, and read away for a moment. Go waits as long.
LINGER_S = 0.5
LINGER_BYTES = 1_000_000
ACCEPT_BATCH = 64  # connections taken between two turns of the loop
STARVATION = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# accept(2) passes on what is pending on the new socket, and what a firewall said of it.
FAULTS_OF_ONE_PEER = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.ETIMEDOUT),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
STARVED_S = 0.1  # how long the listener waits when the process is out of descriptors
CROWDED_AGAIN_S = 60.0  # who crowds us is told of once in so long


@dataclass(frozen=True, slots=True)
class ServeStatistics:
    """What one listener has seen. `open` are the connections there are now."""

    accepted: int
    open: int
    requests: int
    malformed: int
    failed: int


class ServeCounts:
    """Counts for the listeners that are given it."""

    def __init__(self) -> None:
        self.accepted = self.open = self.requests = self.malformed = self.failed = 0

    def __repr__(self) -> str:
        return f"<ServeCounts {self.statistics()}>"

    def statistics(self) -> ServeStatistics:
        return ServeStatistics(self.accepted, self.open, self.requests, self.malformed, self.failed)


async def serve_connection(
    connection: Connection,
    handler: Handler,
    bounds: Bounds = Bounds(),  # noqa: B008 - a frozen value
    *,
    shape: Shape = json_error,
    counts: ServeCounts | None = None,
) -> None:
    """Serve requests until the connection ends, then close it. Never raises for what a peer or a handler does."""

    async def known(_connection: Connection) -> Handler:
        return handler

    counts, crowd = counts or ServeCounts(), OpenConnections()
    await _ServedConnection(connection, known, bounds, shape, counts=counts, crowd=crowd).run()


async def serve_listener(
    listener: socket.socket,
    on_connection: OnConnection,
    bounds: Bounds = Bounds(),  # noqa: B008 - a frozen value
    *,
    kind: str,
    shape: Shape = json_error,
    counts: ServeCounts | None = None,
    crowd: OpenConnections | None = None,
) -> None:
    """Accept for ever. `on_connection` is called once per connection and gives its handler.

    A Refused from it answers the connection's first request, and then the connection ends. trio.serve_listeners is not used:
    there, one failing connection ends them all. Cancel to stop; the listener stays open, it is the caller's.
    """
    counts = counts or ServeCounts()
    crowd = crowd if crowd is not None else OpenConnections()
    listener.setblocking(False)
    was_starved = False
    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(ACCEPT_BATCH):
                    raw, _address = listener.accept()
                    connection = SocketConnection(raw, write_timeout_s=bounds.write_timeout_s)
                    if crowd.is_full:
                        crowd.make_room()
                    served = _ServedConnection(connection, on_connection, bounds, shape, counts=counts, crowd=crowd)
                    nursery.start_soon(served.run)
                    was_starved = False
            except BlockingIOError:
                continue
            except OSError as exc:
                if exc.errno in STARVATION:
                    if not was_starved:
                        log.error("%s listener: %s; waiting for connections to end (%d open)", kind, exc.strerror, counts.open)
                    was_starved = True
                    crowd.make_room()
                    await trio.sleep(STARVED_S)
                elif exc.errno not in FAULTS_OF_ONE_PEER:
                    raise  # the listener itself is gone, or no listener


class OpenConnections:
    """The connections of all listeners that are given it, of which there may be `most`. See `core/crowd.py` for who gives way."""

    def __init__(self, most: float = math.inf) -> None:
        self._crowd: Crowd[_ServedConnection] = Crowd(most)
        self.note, self.leave = self._crowd.note, self._crowd.leave
        self._told_at = -math.inf

    def __repr__(self) -> str:
        return repr(self._crowd)

    @property
    def is_full(self) -> bool:
        return self._crowd.is_full

    def make_room(self) -> None:
        """End one, so that another may come."""
        given = self._crowd.gives()
        if given is None:
            return
        connection, holder, count = given
        whose = holder or "callers of whom nothing is known yet"
        why = f"{len(self._crowd)} connections are too many, and {whose} has {count} of them"
        if trio.current_time() - self._told_at >= CROWDED_AGAIN_S:
            self._told_at = trio.current_time()
            log.warning("%s; the longest idle of them are ended", why)
        connection.give_way(why)


class _ServedConnection:
    """Serves one connection to its end."""

    def __init__(
        self,
        connection: Connection,
        on_connection: OnConnection,
        bounds: Bounds,
        shape: Shape,
        *,
        counts: ServeCounts,
        crowd: OpenConnections,
    ) -> None:
        self._connection = connection
        self._on_connection = on_connection
        self._bounds = bounds
        self._shape = shape
        self._counts = counts
        self._crowd = crowd
        self._why_it_goes = ""
        crowd.note(self, "", is_busy=False)
        self._incoming = Incoming(connection, bounds)
        self._exchange: Exchange | None = None
        # One scope for the whole connection whose deadline moves: a scope per wait would cost more than the parse.
        self._scope = trio.CancelScope()
        connection.write_timeout_s = bounds.write_timeout_s

    async def run(self) -> None:
        self._counts.accepted += 1
        self._counts.open += 1
        try:
            with self._scope:
                if self._why_it_goes:
                    return  # others came in the same turn, and it gave way before this began: its socket is closed
                handler = await self._identify()
                self._crowd.note(self, self._connection.whose, is_busy=False)
                while await self._serve_one(handler):
                    self._crowd.note(self, self._connection.whose, is_busy=False)
            if self._why_it_goes:
                await self._say_that_it_goes()
        except* Exception as group:  # noqa: BLE001 - the boundary: one connection
            # With the star: when the daemon stops, an error may come beside a cancellation, and only the latter may travel on.
            await self._fail(group)
        finally:
            try:
                await self._linger()
            finally:
                self._crowd.leave(self)
                self._counts.open -= 1
                self._connection.close()

    async def _identify(self) -> Handler:
        try:
            return await self._on_connection(self._connection)
        except Refused as refused:
            final = refused

        async def refuse(_exchange: Exchange) -> None:
            raise final.closing()

        return refuse

    async def _serve_one(self, handler: Handler) -> bool:
        """Serve the next request; return whether another may follow on this connection."""
        head = await self._next_head()
        if head is None:
            return False
        exchange = self._exchange = Exchange(head, self._connection, self._incoming, self._bounds)
        self._crowd.note(self, self._connection.whose, is_busy=True)
        self._counts.requests += 1
        expect = head.headers.get("expect")
        if expect is not None and expect.lower() != "100-continue":
            exchange.keeps_connection = False
            await exchange.respond(417, ())
            return False
        try:
            await handler(exchange)
        except (Refused, ExceptionGroup) as exc:
            refused = _sole(exc, Refused)
            if refused is None or exchange.is_started:
                raise
            await self._answer(exchange, refused)
        if not exchange.is_finished:
            raise RuntimeError(f"the handler left {exchange!r} without an answer")
        await exchange.drain()
        self._exchange = None
        return exchange.keeps_connection

    async def _next_head(self) -> RequestHead | None:
        """Return the next request's head, None when there is none. Within time, or the connection's scope ends."""
        event = self._incoming.take()
        if event is not None:
            # A pipelined request: without a turn for others, one peer's burst would hold the loop.
            await trio.lowlevel.checkpoint()
        else:
            is_idle = self._incoming.is_between_messages
            self._scope.deadline = trio.current_time() + (self._bounds.idle_s if is_idle else self._bounds.head_timeout_s)
            while event is None and not self._incoming.is_at_eof:
                await self._incoming.receive()
                event = self._incoming.take()
                if is_idle and event is None and not self._incoming.is_between_messages:
                    is_idle = False
                    self._scope.deadline = trio.current_time() + self._bounds.head_timeout_s
            self._scope.deadline = float("inf")
        if isinstance(event, Broken):
            self._counts.malformed += 1
            log.info("malformed request from %s: %d %s", self._connection.peer.address, event.status, event.detail)
            await self._connection.send_all(_go_refusal(event))
            return None
        assert event is None or isinstance(event, RequestHead)
        return event

    async def _answer(self, exchange: Exchange, refused: Refused) -> None:
        headers, body = self._shape(exchange.head, refused)
        names = {name.lower() for name, _ in headers}
        for name, value in (
            ("Allow", refused.allow),
            ("Location", refused.location),
            ("Retry-After", None if refused.retry_after_s is None else str(max(1, min(60, math.ceil(refused.retry_after_s))))),
        ):
            if value is not None and name.lower() not in names:
                headers = [*headers, (name, value)]
        if refused.close:
            exchange.keeps_connection = False
        await exchange.respond(refused.status, headers, body)

    def give_way(self, why: str) -> None:
        """End, so that another may come. At once where nothing is asked; whoever waits for an answer is told why."""
        self._crowd.leave(self)
        self._why_it_goes = why
        if self._exchange is None:
            self._connection.close()
        else:
            self._scope.cancel()

    async def _say_that_it_goes(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.is_finished:
            return
        if exchange.is_started:
            exchange.break_off()
            return
        with trio.move_on_after(LINGER_S), contextlib.suppress(PeerGone):
            await self._answer(exchange, Refused(503, self._why_it_goes, retry_after_s=1.0, close=True))

    async def _linger(self) -> None:
        """Let the peer read our last answer although it is still sending."""
        if not self._incoming.has_more or self._incoming.is_at_eof:
            return
        self._connection.send_eof()
        left = LINGER_BYTES
        with trio.move_on_after(LINGER_S), contextlib.suppress(PeerGone):
            while left > 0 and (data := await self._connection.receive_some()):
                left -= len(data)

    async def _fail(self, group: ExceptionGroup) -> None:
        """Answer with 500 where nothing was answered yet; a half answer is broken off, never ended well."""
        exchange, where = self._exchange, self._connection.peer.address
        if _sole(group, PeerGone) is not None:
            log.debug("%s left: %s", where, group)
            return
        self._counts.failed += 1
        leaves = _leaves(group)
        log.error("connection of %s failed at %r", where, exchange, exc_info=leaves[0] if len(leaves) == 1 else group)
        if exchange is None or exchange.is_finished:
            return
        if exchange.is_started:
            exchange.break_off()
            return
        exchange.keeps_connection = False
        refused = Refused(500, "internal error of the supervisor, see its log")
        # Not the handler's own shape: that may be what failed.
        with contextlib.suppress(PeerGone):
            await exchange.respond(refused.status, *json_error(exchange.head, refused))


def _go_refusal(broken: Broken) -> bytes:
    """Write what Go's server writes before a handler has seen anything: no Date, no length, the same words twice."""
    status = f"{broken.status} {HTTPStatus(broken.status).phrase}"
    headers = "Content-Type: text/plain; charset=utf-8\r\nConnection: close"
    if broken.status == HTTPStatus.NOT_IMPLEMENTED:
        return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n{broken.detail}".encode()
    words = f"{status}: {broken.detail}" if broken.detail else status
    return f"HTTP/1.1 {words}\r\n{headers}\r\n\r\n{words}".encode()


_Raised = TypeVar("_Raised", bound=Exception)


def _sole(exc: BaseException, kind: type[_Raised]) -> _Raised | None:
    """Return the error of this kind that `exc` is, or that a nursery wrapped, where a leaver's error is no second cause."""
    leaves = _leaves(exc)
    found = [leaf for leaf in leaves if isinstance(leaf, kind)]
    return found[0] if found and all(isinstance(leaf, (kind, PeerGone)) for leaf in leaves) else None


def _leaves(exc: BaseException) -> Sequence[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]
