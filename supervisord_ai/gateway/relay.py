"""Step 9: an answer's way from Ollama into the spool, and from the spool to whoever asked, in the form asked for.

The two halves never wait for each other. `pull` runs in the slot job and reads at full speed; it writes whole lines or whole
events, so that an error can follow at any point without gluing itself to half a frame. `deliver` runs in the connection's task.

A stream that is cut, or that ends without the frame its dialect ends with, ends as an error in the caller's face: only a
native stream that Ollama itself ended cleanly without `done` is passed as it is, as Ollama would have done.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import cast

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Call, Face, Form, JsonObject
from supervisord_ai.core.patience import Patience
from supervisord_ai.errors import UpstreamCut
from supervisord_ai.gateway.headers import headers_of
from supervisord_ai.gateway.request import End, Head, Outcome, Request
from supervisord_ai.gateway.spool import Spool, SpoolFull
from supervisord_ai.ollama.client import OllamaClient, Reply
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.ndjson import LineSplitter, LineTooLong, reencode
from supervisord_ai.wire.ollama import Assembler, error_body, error_line
from supervisord_ai.wire.sse import EventSplitter, is_final
from supervisord_ai.wire.sse import reencode as reencode_event

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
JSON = "application/json; charset=utf-8"
_LEFT = Outcome(End.LEFT, 499, "request canceled")  # Ollama's words; seen when another connection cancelled it
_BLOCK_BYTES = 65_536


# --- from Ollama into the spool -----------------------------------------------------------------------------------------


async def pull(
    request: Request, client: OllamaClient, clock: Clock, patience: Patience, on_begin: Callable[[], None]
) -> Outcome:
    """Make the upstream call and write its answer into the request's spool. Not to be called for a request that is abandoned.

    `on_begin` is called with the first byte.

    Raises:
        UpstreamUnreachable: not one byte of an answer came; it may be asked again.
    """
    call = request.call
    request.call_scope = trio.CancelScope(deadline=clock.monotonic() + patience.silence_s)
    outcome = _LEFT
    with request.call_scope as scope:
        try:
            async with client.open("POST", call.upstream_path, body=call.upstream_body) as reply:
                request.begin(head_of(reply, call), clock.monotonic())
                on_begin()
                outcome = await _write(request, _Upstream(reply, request, clock, patience))
        except UpstreamCut as exc:
            outcome = Outcome(End.FAULT, 502, f"Ollama broke off its answer after {exc.after_bytes} bytes")
        except SpoolFull:
            outcome = Outcome(End.FAULT, 507, "the answer is larger than the spool has room for")
        except LineTooLong:
            outcome = Outcome(End.FAULT, 502, "Ollama sent a line longer than any client reads")
    request.call_scope = None
    if scope.cancelled_caught and not request.is_abandoned:
        return Outcome(End.FAULT, 504, f"Ollama was silent for {patience.silence_s:.0f} s")
    return _LEFT if scope.cancelled_caught else outcome


def head_of(reply: Reply, call: Call) -> Head:
    """Read from the head of a reply how its body is framed."""
    content_type = reply.headers.get("Content-Type") or JSON
    is_lines = content_type.startswith(NDJSON) and call.face is Face.OLLAMA
    return Head(reply.status, content_type, Form.LINES if is_lines else Form.RAW, reply.headers.get("Content-Length") is not None)


class _Upstream:
    """The chunks of a reply until nobody wants them; each one buys another spell of silence."""

    def __init__(self, reply: Reply, request: Request, clock: Clock, patience: Patience) -> None:
        self._reply = reply
        self._request = request
        self._clock = clock
        self._patience = patience

    async def next_chunk(self) -> bytes | None:
        """Return the next chunk, None at the clean end."""
        chunk = await self._reply.next_chunk()
        if not self._request.is_abandoned and self._request.call_scope is not None:
            self._request.call_scope.deadline = self._clock.monotonic() + self._patience.silence_s
        return chunk


async def _write(request: Request, upstream: _Upstream) -> Outcome:
    assert request.head is not None
    if request.head.form is Form.LINES:
        return await _write_lines(request, upstream)
    if request.head.content_type.startswith(EVENTS):
        return await _write_events(request, upstream)
    while (chunk := await upstream.next_chunk()) is not None:
        request.spool.write(chunk)
        if request.is_abandoned:
            return _LEFT
    return Outcome(End.WHOLE)


async def _write_lines(request: Request, upstream: _Upstream) -> Outcome:
    splitter = LineSplitter()
    last = b""
    while (chunk := await upstream.next_chunk()) is not None:
        for line in splitter.feed(chunk):
            try:
                last = reencode(line)
            except ValueError:
                return Outcome(End.FAULT, 502, "Ollama sent a line that is not a JSON object")
            request.spool.write(last)
        if request.is_abandoned:
            return _LEFT
    if splitter.tail:
        return Outcome(End.FAULT, 502, "Ollama ended its answer in the middle of a line")
    return _end_of_lines(last)


def _end_of_lines(last: bytes) -> Outcome:
    """How a native stream ended, by its last line."""
    fields = cast("JsonObject", json.loads(last)) if last else {}
    if "error" in fields:
        return Outcome(End.ERROR, 500, str(fields["error"]))
    return Outcome(End.WHOLE if fields.get("done") is True else End.UNFINISHED)


async def _write_events(request: Request, upstream: _Upstream) -> Outcome:
    call = request.call
    splitter = EventSplitter()
    is_complete = False
    while (chunk := await upstream.next_chunk()) is not None:
        for event in splitter.feed(chunk):
            is_complete = is_complete or is_final(call.face, event, call.path)
            request.spool.write(reencode_event(event))
        if request.is_abandoned:
            return _LEFT
    if splitter.tail or not is_complete:
        return Outcome(End.FAULT, 502, "Ollama ended its stream without the final event")
    return Outcome(End.WHOLE)


# --- from the spool to the caller ---------------------------------------------------------------------------------------


async def deliver(exchange: Exchange, request: Request, clock: Clock) -> None:
    """Give the caller its answer, as it comes or as one body.

    Raises:
        PeerGone: the caller left, or took no byte for too long.
    """
    await request.wait_begun()
    head = request.head
    if head is None:
        await deliver_fault(exchange, request, clock)
    elif head.form is Form.LINES and not request.call.asked_stream:
        await _deliver_assembled(exchange, request, clock)
    elif head.has_length or not request.call.asked_stream:
        await _deliver_body(exchange, request, head, clock)
    else:
        await _deliver_stream(exchange, request, head, clock)


async def deliver_fault(exchange: Exchange, request: Request, clock: Clock) -> None:
    """Answer an error of ours, before anything else was sent."""
    outcome = await request.wait_over()
    await respond_fault(exchange, request.call.face, outcome, headers_of(request, clock.monotonic()))


async def respond_fault(exchange: Exchange, face: Face, outcome: Outcome, headers: list[tuple[str, str]]) -> None:
    """Answer an error of ours in the caller's face."""
    content_type, body = error_body(face, outcome.status, outcome.message)
    if outcome.retry_after_s is not None:
        headers.append(("Retry-After", f"{outcome.retry_after_s:.0f}"))
    await exchange.respond(outcome.status, [("Content-Type", content_type), *headers], body)


async def _deliver_assembled(exchange: Exchange, request: Request, clock: Clock) -> None:
    """`stream: false`: Ollama was asked for a stream, the one body is made here. An error leaves no partial text."""
    outcome = await request.wait_over()
    if outcome.end not in {End.WHOLE, End.UNFINISHED}:
        await deliver_fault(exchange, request, clock)
        return
    assembler = Assembler()
    for line in request.spool.whole().splitlines():
        assembler.feed(json.loads(line))
    body = json.dumps(assembler.result(), separators=(",", ":")).encode()
    await exchange.respond(200, [("Content-Type", JSON), *headers_of(request, clock.monotonic())], body)


async def _deliver_body(exchange: Exchange, request: Request, head: Head, clock: Clock) -> None:
    outcome = await request.wait_over()
    if outcome.end is not End.WHOLE:
        await deliver_fault(exchange, request, clock)
        return
    # A native error before the first token comes in the streamed form, since we asked for a stream; who did not ask for
    # one gets it as Ollama would have sent it.
    is_plain_json = head.content_type == "application/json" and not request.call.asked_stream
    content_type = JSON if is_plain_json and request.call.face is Face.OLLAMA else head.content_type
    await exchange.respond(
        head.status, [("Content-Type", content_type), *headers_of(request, clock.monotonic())], request.spool.whole()
    )


async def _deliver_stream(exchange: Exchange, request: Request, head: Head, clock: Clock) -> None:
    if not await request.spool.wait_beyond(0) and (await request.wait_over()).end in {End.FAULT, End.LEFT}:
        await deliver_fault(exchange, request, clock)  # nothing is on the wire yet: the status can still be a true one
        return
    await exchange.start(head.status, [("Content-Type", head.content_type), *headers_of(request, clock.monotonic())])
    frames = _Frames(request.spool, head.form)
    while (frame := await frames.next()) is not None:
        await exchange.send(frame)
    outcome = await request.wait_over()
    if outcome.end is End.FAULT:
        await exchange.send(error_line(request.call.face, outcome.message))
    elif outcome.end is End.LEFT:
        exchange.break_off()
        return
    await exchange.finish()


class _Frames:
    """A reader's place in a spool. Lines are given one at a time, as Ollama sends them; other bytes as they are there."""

    def __init__(self, spool: Spool, form: Form) -> None:
        self._spool = spool
        self._form = form
        self._offset = 0
        self._lines: deque[bytes] = deque()  # read already, not given yet

    async def next(self) -> bytes | None:
        """Return the next frame, None at the end."""
        size = _BLOCK_BYTES
        while not self._lines:
            if not await self._spool.wait_beyond(self._offset):
                return None
            block = self._spool.read(self._offset, size)
            if self._form is Form.LINES:
                # The writer writes whole lines: a line is cut here by the block's size only.
                block = block[: block.rfind(b"\n") + 1]
                self._lines.extend(block.splitlines(keepends=True))
                size *= 2
            else:
                self._lines.append(block)
            self._offset += len(block)
        return self._lines.popleft()
