"""One request and its answer on a connection: what a handler holds."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import trio

from supervisord_ai.errors import PeerGone, Refused
from supervisord_ai.serve.connection import Connection, Peer
from supervisord_ai.wire.gzip_body import Gunzip, GzipError
from supervisord_ai.wire.http1 import (
    END,
    LAST_CHUNK,
    Broken,
    RequestEvent,
    RequestHead,
    RequestParser,
    chunk_bytes,
    response_head_bytes,
)

HeaderList = Sequence[tuple[str, str]]

# As Go: what a handler left unread of a body is read away up to here, so that the connection can be used again.
DRAIN_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may cost us. There is no way to say "without limit"."""

    headers_bytes: int = 64_000
    header_count: int = 128
    body_bytes: int = 64_000_000
    head_timeout_s: float = 30.0  # from the first byte of a head to its last: a whole head is one packet of a live client
    body_timeout_s: float = 60.0  # without one byte of a body that is being read
    idle_s: float = 600.0  # between two requests; clients keep connections for minutes, and one costs us little
    write_timeout_s: float = 60.0  # a peer that takes no byte


Shape = Callable[[RequestHead | None, Refused], tuple[list[tuple[str, str]], bytes]]


def json_error(_head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Shape a refusal as Ollama's native API does: `{"error": "..."}`."""
    return [("Content-Type", "application/json; charset=utf-8")], json.dumps(
        {"error": refused.message}, ensure_ascii=False, separators=(",", ":")
    ).encode("utf-8", "replace")


class Incoming:
    """The requests of one connection as events, read as they are asked for."""

    def __init__(self, connection: Connection, bounds: Bounds) -> None:
        self._connection = connection
        self._parser = RequestParser(headers_bytes=bounds.headers_bytes, header_count=bounds.header_count)
        self._events: deque[RequestEvent] = deque()
        self.is_at_eof = False

    @property
    def has_more(self) -> bool:
        """Whether something is here already that nobody took."""
        return bool(self._events) or not self._parser.is_between_messages

    @property
    def is_between_messages(self) -> bool:
        return self._parser.is_between_messages

    def take(self) -> RequestEvent | None:
        """Return the next event that is here."""
        return self._events.popleft() if self._events else None

    def take_whole(self, max_bytes: int) -> bytes | None:
        """Return the body if all of it is here in one piece and not too large, and take it with its end."""
        events = self._events
        first = events[0] if len(events) > 1 and events[1] is END else None
        if not isinstance(first, bytes) or len(first) > max_bytes:
            return None
        events.popleft()
        events.popleft()
        return first

    async def receive(self) -> None:
        """Wait for more bytes, or for their end. Raises: PeerGone."""
        data = await self._connection.receive_some()
        if data:
            self._events.extend(self._parser.feed(data))
        else:
            self.is_at_eof = True
            self._events.extend(self._parser.feed_eof())


class Exchange:
    """One request and its answer. A handler reads the body if it wants it, then calls `respond`, or `start`, `send`, `finish`.

    A handler may also raise Refused before it started an answer: the server shapes it. What it leaves unread is read away.
    """

    def __init__(self, head: RequestHead, connection: Connection, incoming: Incoming, bounds: Bounds) -> None:
        self.head = head
        self.peer: Peer = connection.peer
        self.is_started = False  # an answer was begun, though perhaps no byte of it was sent
        self.is_finished = False  # it was ended, well or by breaking off
        self.keeps_connection = head.wants_keep_alive
        self._connection = connection
        self._incoming = incoming
        self._bounds = bounds
        self._body: bytes | bytearray | None = None
        self._is_body_ended = False
        self._failure: Refused | None = None  # why no body can be had
        self._owes_continue = (
            head.version == "1.1" and head.body_bytes != 0 and (head.headers.get("expect") or "").lower() == "100-continue"
        )
        self._is_gone = False
        self._pending_head = b""  # goes out with the first bytes of the body
        self._is_chunked = False
        self._is_bodiless = False

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else "started" if self.is_started else "open"
        return f"<Exchange {self.head.method} {self.head.path} from {self.peer.address} {state}>"

    # --- the request -----------------------------------------------------------------------------------------------

    def take_body(self) -> bytes | bytearray:
        """Return the body that was read, as it lies here, and keep it no longer."""
        body, self._body = self._body or b"", b""
        return body

    async def body(
        self, max_bytes: int | None = None, *, gunzip: bool = False, take: Callable[[int], None] | None = None
    ) -> bytes:
        """Return the whole body; asking again returns the same. As `receive_body`."""
        await self.receive_body(max_bytes, gunzip=gunzip, take=take)
        body = self._body = bytes(self._body or b"")
        return body

    async def receive_body(
        self, max_bytes: int | None = None, *, gunzip: bool = False, take: Callable[[int], None] | None = None
    ) -> None:
        """Have the whole body here, for `take_body`: a large one is not copied. `gunzip` it where the head says so.

        Sends `100 Continue` first where the caller waits for it. `max_bytes` bounds both what comes and what it stands for.
        `take` is told of every piece before it is held, and may refuse it.
        Raises: Refused (413 above `max_bytes`, 408 when nothing more comes, 400 for broken framing or gzip, `take`'s), PeerGone.
        """
        if self._body is not None:
            return
        if self._failure is not None:
            raise self._failure
        limit = self._bounds.body_bytes if max_bytes is None else max_bytes
        if (self.head.body_bytes or 0) > limit:
            raise self._fail(413, "http: request body too large")
        if self._owes_continue:
            self._owes_continue = False
            await self._connection.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        whole = self._incoming.take_whole(limit) if not gunzip and not self._is_body_ended else None
        if whole is not None:  # most bodies come with their head
            self._is_body_ended = True
            self._take(take, len(whole))
            self._body = whole
            return
        received, came = bytearray(), 0
        packed = Gunzip() if gunzip else None
        try:
            while (data := await self._next_piece()) is not None:
                came += len(data)
                if came > limit:  # also of what stands for nothing
                    raise self._fail(413, "http: request body too large")
                for piece in (data,) if packed is None else packed.feed(data):
                    if len(received) + len(piece) > limit:
                        raise self._fail(413, "http: request body too large")
                    self._take(take, len(piece))
                    received += piece
                    if packed is not None:
                        await trio.lowlevel.checkpoint()  # a few bytes may stand for many
            if packed is not None:
                packed.end()
        except GzipError as exc:
            raise self._fail(400, str(exc)) from exc
        self._body = received

    async def _next_piece(self) -> bytes | None:
        """Return the next bytes of the body, None at its end. Raises: Refused, PeerGone."""
        if self._is_body_ended:
            return None
        while (event := self._incoming.take()) is None:
            with trio.move_on_after(self._bounds.body_timeout_s) as patience:
                await self._incoming.receive()
            if patience.cancelled_caught:
                raise self._fail(408, "the request body stopped coming")
        if event is END:
            self._is_body_ended = True
            return None
        if isinstance(event, Broken):
            raise self._fail(event.status, event.detail)
        assert isinstance(event, bytes)
        return event

    def _take(self, take: Callable[[int], None] | None, count: int) -> None:
        try:
            if take is not None:
                take(count)
        except Refused as refused:
            raise self._failed(refused.closing()) from None

    def _fail(self, status: int, message: str) -> Refused:
        return self._failed(Refused(status, message, close=True))

    def _failed(self, refused: Refused) -> Refused:
        self._failure = refused
        self._is_body_ended = True
        self.keeps_connection = False
        return self._failure

    async def drain(self) -> None:
        """Read away what the handler left of the body, as far as that is worth it. Raises: PeerGone."""
        left = DRAIN_BYTES
        while self.keeps_connection and not self._is_body_ended:
            try:
                piece = await self._next_piece()
            except Refused:
                return
            left -= len(piece or b"")
            if left < 0:
                self.keeps_connection = False

    # --- the answer ------------------------------------------------------------------------------------------------

    async def respond(self, status: int, headers: HeaderList, body: bytes = b"") -> None:
        """Send one whole answer with a Content-Length; to a HEAD request the same head without the body. Raises: PeerGone."""
        length = () if _is_without_body(status) else (("Content-Length", str(len(body))),)
        raw = self._begin(status, headers, length)
        self.is_finished = True
        await self._send(raw if self._is_bodiless else raw + body)

    async def start(self, status: int, headers: HeaderList) -> None:
        """Begin an answer of unknown length. No byte of it is sent before the first `send`, as with Ollama.

        It is chunked; to an HTTP/1.0 caller it ends with the connection.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_chunked = self.head.version == "1.1" and not _is_without_body(status)
        if self.head.version == "1.0":
            self.keeps_connection = False
        self._pending_head = self._begin(status, headers, (("Transfer-Encoding", "chunked"),) if self._is_chunked else ())

    async def send(self, data: bytes) -> None:
        """Send one piece of a started answer, as one HTTP chunk. Raises: PeerGone."""
        assert self.is_started, "start comes before send"
        assert self._is_gone or not self.is_finished, "nothing is sent after the end"
        if not data:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        if self._is_bodiless:
            data = b""
        elif self._is_chunked:
            data = chunk_bytes(data)
        if self._pending_head:
            data, self._pending_head = self._pending_head + data, b""
        await self._send(data)

    async def finish(self) -> None:
        """End a started answer well. Raises: PeerGone."""
        assert self.is_started, "start comes before finish"
        assert self._is_gone or not self.is_finished, "an answer ends once"
        self.is_finished = True
        end = self._pending_head + (LAST_CHUNK if self._is_chunked and not self._is_bodiless else b"")
        self._pending_head = b""
        await self._send(end)

    async def wait_gone(self) -> None:
        """Return when nobody will read the answer any more."""
        await self._connection.wait_gone()

    def break_off(self) -> None:
        """End the connection without a clean end of the answer, so that nobody takes it for success.

        A chunked answer lacks its last chunk then; one that ends with the connection is ended by a reset, where there is one.
        """
        self.is_started = self.is_finished = True
        self.keeps_connection = False
        if self._is_chunked:
            self._connection.close()
        else:
            self._connection.abort()

    def _begin(self, status: int, headers: HeaderList, framing: HeaderList) -> bytes:
        """Return the head of the answer; from now on it counts as started. Raises: ValueError for a line break in a value."""
        assert not self.is_started, "one request has one answer"
        self._is_bodiless = self.head.method == "HEAD" or _is_without_body(status)
        if not self._is_body_ended and (self._owes_continue or (self.head.body_bytes or 0) > DRAIN_BYTES):
            # Who waits for 100 may or may not send the body now, and a huge rest is not worth reading.
            self.keeps_connection = False
        head = response_head_bytes(
            status_line(self.head.version, status), [*headers, ("Date", http_date()), *framing, *self._connection_header()]
        )
        self.is_started = True
        return head

    def _connection_header(self) -> HeaderList:
        """Say what differs from the version's default; nothing to a caller who has closed its side already, as Go."""
        if self.head.version == "1.0":
            return (("Connection", "keep-alive"),) if self.keeps_connection else ()
        return () if self.keeps_connection or self._incoming.is_at_eof else (("Connection", "close"),)

    async def _send(self, data: bytes) -> None:
        if self._is_gone:
            raise PeerGone("left before")
        try:
            await self._connection.send_all(data)
        except PeerGone:
            self._is_gone = self.is_finished = True
            self.keeps_connection = False
            raise


def _is_without_body(status: int) -> bool:
    return status in {204, 304} or status < 200


@lru_cache(maxsize=64)
def status_line(version: str, status: int) -> str:
    try:
        return f"HTTP/{version} {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP/{version} {status} status code {status}"


_date: tuple[int, str] = (0, "")


def http_date() -> str:
    """The time as HTTP writes it, made once a second."""
    global _date  # noqa: PLW0603
    second = int(time.time())
    if second != _date[0]:
        _date = (second, formatdate(second, usegmt=True))
    return _date[1]


Handler = Callable[[Exchange], Awaitable[None]]
