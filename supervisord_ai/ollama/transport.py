"""Speaks HTTP/1.1 to Ollama over any stream of bytes, for httpx and, without its cost, for the relay.

httpx on its default transport costs 4 to 5 times the CPU of a call on this one, and more a chunk. Callers of metadata keep
httpx's API (`handle_async_request`); the relay calls `begin` and gets the bytes as they come.

Whatever a caller asked for, what leaves here is ours: our Host (Ollama refuses foreign ones with 403), no Origin, no
Authorization but the backend's own secret, nothing that speaks of the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import httpx
import trio

from supervisord_ai.errors import PeerGone, UpstreamCut, UpstreamUnreachable
from supervisord_ai.ollama.streams import ByteStream, Dialer, RawStream, dial_tcp, dial_unix
from supervisord_ai.wire.http1 import END, Broken, Headers, ResponseHead, ResponseParser, request_bytes

__all__ = ["ByteStream", "Dialer", "HttpTransport", "RawStream", "Reply", "TransportStatistics", "dial_tcp", "dial_unix"]

JOINED_BYTES = 64_000
METADATA_BYTES = 16_000_000  # `show` of a model with its tensors is a few hundred kilobytes
HOST = "127.0.0.1:11434"  # what Ollama's Host check always takes, wherever it listens

# What a caller's request may not decide about ours: identity, the connection, and framing.
_NEVER_FORWARDED = frozenset(
    {
        *("host", "origin", "authorization", "cookie"),
        *("connection", "keep-alive", "upgrade", "http2-settings", "proxy-connection", "proxy-authorization"),
        *("content-length", "transfer-encoding", "te", "trailer", "expect"),
    }
)


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Connections of one backend: being used now, kept for the next call, dialled ever, found dead when used again."""

    in_use: int
    kept: int
    dialled: int
    stale: int


class Reply:
    """One answer of Ollama, while it comes. Ends by `next_chunk` giving None, or by `aclose`, which may come at any time."""

    def __init__(self, transport: HttpTransport, stream: ByteStream, *, is_head_request: bool) -> None:
        self.status = 0
        self.headers = Headers()
        self._transport = transport
        self._stream: ByteStream | None = stream
        self._parser = ResponseParser(is_head_request=is_head_request)
        self._ready = b""  # body bytes that came with the head
        self._is_ended = False
        self._is_broken = False
        self.seen_bytes = 0

    def __repr__(self) -> str:
        return f"<Reply {self.status} after {self.seen_bytes} bytes{' ended' if self._is_ended else ''}>"

    async def next_chunk(self) -> bytes | None:
        """Return the next bytes of the body as soon as there are any; None at its clean end.

        Giving up the wait loses nothing: the next call goes on where this one was. Raises: UpstreamCut.
        """
        while not self._ready:
            if self._is_broken:
                raise UpstreamCut(self.seen_bytes)
            if self._is_ended:
                return None
            await self._receive()
        data, self._ready = self._ready, b""
        return data

    async def read_head(self) -> None:
        """Wait for the head. Raises: UpstreamUnreachable when the connection ended before one byte, UpstreamCut after one."""
        while not self.status:
            await self._receive()
            if self._is_broken:
                if not self.seen_bytes:
                    raise UpstreamUnreachable("the connection ended before an answer", was_sent=True)
                raise UpstreamCut(self.seen_bytes)

    async def _receive(self) -> None:
        assert self._stream is not None
        try:
            data = await self._stream.receive_some()
        except PeerGone:
            self._is_broken = True
            return
        self.seen_bytes += len(data)
        pieces: list[bytes] = []
        for event in self._parser.feed(data) if data else self._parser.feed_eof():
            if isinstance(event, bytes):
                pieces.append(event)
            elif isinstance(event, ResponseHead):
                self.status, self.headers = event.status, event.headers
            elif isinstance(event, Broken):
                self._is_broken = True
            else:
                assert event is END
                self._is_ended = True
        self._ready = b"".join(pieces)
        if self._is_ended:
            stream, self._stream = self._stream, None
            await self._transport.done(stream, is_reusable=self._parser.is_reusable)

    async def aclose(self) -> None:
        """Be done with it. An answer that has not ended is left by closing its connection at once: Ollama then stops."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._is_broken = not self._is_ended
            await self._transport.done(stream, is_reusable=False)


class HttpTransport(httpx.AsyncBaseTransport):
    """Calls over connections that are kept for the next call.

    At most `connections` are kept. There is no queue here: a call that finds none free dials, since the ceiling on calls is
    the gateway's, which knows what each of them waits for.
    """

    def __init__(self, dial: Dialer, *, connections: int = 10, secret: str | None = None) -> None:
        self._dial = dial
        self._connections = connections
        self._authorization = () if secret is None else (("Authorization", f"Bearer {secret}"),)
        self._kept: list[ByteStream] = []
        self._in_use = self._dialled = self._stale = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<HttpTransport {self.statistics()}>"

    def statistics(self) -> TransportStatistics:
        return TransportStatistics(self._in_use, len(self._kept), self._dialled, self._stale)

    async def begin(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: Sequence[bytes]) -> Reply:
        """Send one call and wait for the head of its answer; the caller closes the reply.

        A kept connection that has ended is found before it is used. One that ends just as it is used fails like any other: only
        a call that changes nothing (GET, HEAD) is sent again here, since who sent another one counts its attempts.
        Raises: UpstreamUnreachable, UpstreamCut.
        """
        length = sum(map(len, body))
        # In one piece with the head where that is cheap: then it is one packet.
        is_small = length <= JOINED_BYTES
        first = request_bytes(method, target, self._headers(headers, length, method), b"".join(body) if is_small else b"")
        raw = (first,) if is_small else (first, *body)
        is_head = method == "HEAD"
        stream = await self._reuse()
        if stream is not None:
            try:
                return await self._attempt(stream, raw, is_head_request=is_head)
            except UpstreamUnreachable:
                # Ollama restarted, most likely: the other kept connections are as old.
                self._stale += 1
                await self._drop_kept()
                if method not in {"GET", "HEAD"}:
                    raise
        self._dialled += 1
        return await self._attempt(await self._dial(), raw, is_head_request=is_head)

    def _headers(self, headers: Iterable[tuple[str, str]], length: int, method: str) -> list[tuple[str, str]]:
        ours = [("Host", HOST), *self._authorization]
        theirs = [(name, value) for name, value in headers if name.lower() not in _NEVER_FORWARDED]
        framing = [("Content-Length", str(length))] if length or method not in {"GET", "HEAD", "OPTIONS", "DELETE"} else []
        return ours + theirs + framing

    async def _attempt(self, stream: ByteStream, raw: Sequence[bytes], *, is_head_request: bool) -> Reply:
        self._in_use += 1
        reply = Reply(self, stream, is_head_request=is_head_request)
        try:
            with contextlib.suppress(PeerGone):  # it may have answered without reading to the end: reading tells
                for piece in raw:
                    await stream.send_all(piece)
            await reply.read_head()
        except BaseException:
            await reply.aclose()
            raise
        return reply

    async def done(self, stream: ByteStream, *, is_reusable: bool) -> None:
        """Take back a connection: kept for the next call, or closed at once."""
        self._in_use -= 1
        if is_reusable and not self._is_closed and len(self._kept) < self._connections:
            self._kept.append(stream)
            return
        with trio.CancelScope(shield=True):  # closing never waits, but it may be a checkpoint
            await stream.aclose()

    async def _reuse(self) -> ByteStream | None:
        """Return a kept connection that is still open and silent. What came on an idle one is an answer to nobody."""
        while self._kept:
            stream = self._kept.pop()
            if not stream.has_input():
                return stream
            self._stale += 1
            with trio.CancelScope(shield=True):
                await stream.aclose()
        return None

    def has_ended(self) -> bool:
        """Whether a connection that is kept for the next call has ended on the other side, as all do when Ollama ends."""
        return any(stream.has_input() for stream in self._kept)

    async def _drop_kept(self) -> None:
        kept, self._kept = self._kept, []
        with trio.CancelScope(shield=True):
            for stream in kept:
                await stream.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer httpx, with at most 16 MB. Its timeouts are not looked at: deadlines are cancel scopes here."""
        body = await request.aread()
        reply = await self.begin(request.method, request.url.raw_path.decode("ascii"), request.headers.multi_items(), (body,))
        # Nobody asked for a coding; httpx would undo one without a bound, and fail in its own words.
        headers = [(name, value) for name, value in reply.headers.items() if name.lower() != "content-encoding"]
        return httpx.Response(reply.status, headers=headers, stream=_HttpxBody(reply, METADATA_BYTES), request=request)

    async def aclose(self) -> None:
        """Close the kept connections; calls in flight go on and are not kept."""
        self._is_closed = True
        await self._drop_kept()


class _HttpxBody(httpx.AsyncByteStream):
    """A body for httpx, bounded. The bound is here because an iteration that httpx's caller left early would not be closed."""

    def __init__(self, reply: Reply, limit: int) -> None:
        self._reply = reply
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._reply.next_chunk()) is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise UpstreamCut(self._reply.seen_bytes)
            yield chunk

    async def aclose(self) -> None:
        await self._reply.aclose()
