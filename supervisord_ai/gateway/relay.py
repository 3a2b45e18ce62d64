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
from supervisord_ai.gateway.cache import replay
from supervisord_ai.gateway.headers import headers_of
from supervisord_ai.gateway.memory import Held
from supervisord_ai.gateway.request import End, Head, Outcome, Request
from supervisord_ai.gateway.spool import SpoolFull
from supervisord_ai.ollama.client import OllamaClient, Reply
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.faces import error_text, renewed_raw
from supervisord_ai.wire.ndjson import LineSplitter, LineTooLong, reencode, write_line
from supervisord_ai.wire.ollama import Assembler, error_body, error_line
from supervisord_ai.wire.sse import EventSplitter, is_final
from supervisord_ai.wire.sse import reencode as reencode_event

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
JSON = "application/json; charset=utf-8"
_LEFT = Outcome(End.LEFT, 499, "request canceled")  # Ollama's words; seen when another connection cancelled it
_BLOCK_BYTES = 65_536
COMMENT_EVERY_S = 15.0  # proxies and clients take half a minute of silence for the end


# --- from Ollama into the spool -----------------------------------------------------------------------------------------


async def pull(
    request: Request, client: OllamaClient, clock: Clock, patience: Patience, on_begin: Callable[[], None]
) -> Outcome:
    """Make the upstream call of a request and write its answer for everybody who shares it. Not to be called when nobody does.

    `on_begin` is called with the first byte.

    Raises:
        UpstreamUnreachable: not one byte of an answer came; it may be asked again.
    """
    call, answer, job = request.call, request.answer, request.answer.job
    assert job is not None
    answer.asked_by = request
    allowed_s = patience.first_byte_s if call.upstream_streams else patience.silence_s
    job.scope = trio.CancelScope(deadline=clock.monotonic() + allowed_s)
    outcome = _LEFT
    with job.scope as scope:
        try:
            body = answer.sends if answer.sends is not None else call.upstream_body
            async with client.open("POST", call.upstream_path, body=body.pieces()) as reply:
                answer.begin(head_of(reply, call), clock.monotonic())
                on_begin()
                outcome = await _write(request, _Upstream(reply, request, clock, patience))
        except UpstreamCut as exc:
            outcome = Outcome(End.FAULT, 502, f"Ollama broke off its answer after {exc.after_bytes} bytes")
        except SpoolFull:
            outcome = Outcome(End.FAULT, 507, "the answer is larger than the spool has room for")
        except LineTooLong:
            outcome = Outcome(End.FAULT, 502, "Ollama sent a line longer than any client reads")
    job.scope = None
    if scope.cancelled_caught and not job.is_abandoned:
        silent_s = allowed_s if answer.head is None else _gap_s(call, patience)
        return Outcome(End.FAULT, 504, f"Ollama was silent for {silent_s:.0f} s")
    return _LEFT if scope.cancelled_caught else outcome


def _gap_s(call: Call, patience: Patience) -> float:
    """How long nothing may come after something has come."""
    return patience.stall_s if call.upstream_streams else patience.silence_s


def head_of(reply: Reply, call: Call) -> Head:
    """Read from the head of a reply how its body is framed."""
    content_type = reply.headers.get("Content-Type") or JSON
    is_lines = content_type.startswith(NDJSON) and call.face is Face.OLLAMA
    return Head(reply.status, content_type, Form.LINES if is_lines else Form.RAW, reply.headers.get("Content-Length") is not None)


class _Upstream:
    """The chunks of a reply until nobody wants them; each one buys another spell of silence."""

    def __init__(self, reply: Reply, request: Request, clock: Clock, patience: Patience) -> None:
        self._reply = reply
        self._job = request.answer.job
        self._gap_s = _gap_s(request.call, patience)
        self._clock = clock

    async def next_chunk(self) -> bytes | None:
        """Return the next chunk, None at the clean end."""
        chunk = await self._reply.next_chunk()
        if self._job is not None and not self._job.is_abandoned and self._job.scope is not None:
            self._job.scope.deadline = self._clock.monotonic() + self._gap_s
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


async def deliver(exchange: Exchange, request: Request, clock: Clock, comment: Callable[[Request], bytes]) -> None:
    """Give the caller its answer, as it comes or as one body. `comment` says in SSE how long it will be.

    Raises:
        PeerGone: the caller left, or took no byte for too long.
    """
    if await _wait_with_comments(exchange, request, clock, comment):
        await _deliver_behind_comments(exchange, request, clock)
        return
    head = request.head
    if request.found is not None:
        await replay_found(exchange, request, request.found.held, clock)
    elif head is None:
        await deliver_fault(exchange, request, clock)
    elif head.form is Form.LINES and not request.call.asked_stream:
        await _deliver_assembled(exchange, request, clock)
    elif head.has_length or not request.call.asked_stream:
        await _deliver_body(exchange, request, head, clock)
    else:
        await _deliver_stream(exchange, request, head, clock)


async def _wait_with_comments(
    exchange: Exchange, request: Request, clock: Clock, comment: Callable[[Request], bytes]
) -> bool:
    """Return when the answer begins, or there will be none; True when the caller was sent comments meanwhile.

    Only SSE has room for them. The first one commits the status 200: whoever waits less sees the true one, as from Ollama.
    """
    call = request.call
    if call.face is Face.OLLAMA or not call.asked_stream:
        await request.wait_begun()
        return False
    is_told = False
    while True:
        with trio.move_on_after(COMMENT_EVERY_S):
            await request.wait_begun()
            return is_told
        if not request.is_durable:
            continue  # a comment is an acknowledgement
        if not is_told:
            is_told = True
            await exchange.start(200, [("Content-Type", EVENTS), *headers_of(request, clock.monotonic())])
        await exchange.send(comment(request))


async def _deliver_behind_comments(exchange: Exchange, request: Request, clock: Clock) -> None:
    """The status is sent already: an error can only be an event."""
    head, call = request.head, request.call
    if request.found is not None:
        created = int(clock.wall())
        await exchange.send(
            renewed_raw(request.found.answer.body, is_stream=True, model=call.model or "", created=created, new_id=request.id)
        )
        await exchange.finish()
    elif head is not None and head.status == 200 and head.content_type.startswith(EVENTS):
        await _send_frames(exchange, request, head, clock)
    else:
        outcome = await request.wait_over()
        message = error_text(request.spool.whole()) if outcome.end is End.WHOLE else outcome.message
        await exchange.send(error_line(call.face, message))
        await exchange.finish()


async def deliver_fault(exchange: Exchange, request: Request, clock: Clock) -> None:
    """Answer an error of ours, before anything else was sent."""
    outcome = await request.wait_over()
    await respond_fault(exchange, request.call.face, outcome, headers_of(request, clock.monotonic()))


async def replay_found(exchange: Exchange, request: Request, held: Held, clock: Clock) -> None:
    """Give an answer that was stored while the request waited."""
    now = clock.monotonic()
    await replay(
        exchange,
        request.call,
        held,
        headers_of(request, now),
        took_s=now - request.times.accepted_at,
        now_wall=clock.wall(),
        fresh_id=request.id,
    )


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
    result = assembler.result()
    if request.is_echoed:
        result["model"] = request.call.model
    body = json.dumps(result, separators=(",", ":")).encode()
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
    body = Echo(request, head, clock).body(request.spool.whole()) if request.is_echoed else request.spool.whole()
    await exchange.respond(head.status, [("Content-Type", content_type), *headers_of(request, clock.monotonic())], body)


async def _deliver_stream(exchange: Exchange, request: Request, head: Head, clock: Clock) -> None:
    if not await request.wait_beyond(0) and (await request.wait_over()).end in {End.FAULT, End.LEFT}:
        await deliver_fault(exchange, request, clock)  # nothing is on the wire yet: the status can still be a true one
        return
    await exchange.start(head.status, [("Content-Type", head.content_type), *headers_of(request, clock.monotonic())])
    await _send_frames(exchange, request, head, clock)


async def _send_frames(exchange: Exchange, request: Request, head: Head, clock: Clock) -> None:
    """Give what comes to a caller who has the head of it, and then its end."""
    frames = _Frames(request, Echo(request, head, clock) if request.is_echoed else None)
    while (frame := await frames.next()) is not None:
        await exchange.send(frame)
    outcome = await request.wait_over()
    if outcome.end in {End.FAULT, End.LEFT}:  # left, and somebody reads: it was cancelled by another's word
        await exchange.send(error_line(request.call.face, outcome.message))
    await exchange.finish()


class Echo:
    """Makes a frame of a shared answer the answer of one of its other callers: his model name, an id and time of his own."""

    def __init__(self, request: Request, head: Head, clock: Clock) -> None:
        self._model = request.call.model or ""
        self._id = request.id
        self._created = int(clock.wall())
        self._is_native = request.call.face is Face.OLLAMA
        self._is_error = head.status != 200

    def line(self, line: bytes) -> bytes:
        """A native line."""
        fields = cast("JsonObject", json.loads(line))
        return write_line(fields | {"model": self._model}) if "model" in fields else line

    def event(self, event: bytes) -> bytes:
        """A whole SSE event."""
        return renewed_raw(event, is_stream=True, model=self._model, created=self._created, new_id=self._id)

    def body(self, body: bytes) -> bytes:
        """A body that is not a stream."""
        if self._is_error:
            return body
        if not self._is_native:
            return renewed_raw(body, is_stream=False, model=self._model, created=self._created, new_id=self._id)
        return self.line(body).rstrip(b"\n")


class _Frames:
    """A reader's place in an answer. Lines are given one at a time, as Ollama sends them; other bytes as they are there."""

    def __init__(self, request: Request, echo: Echo | None) -> None:
        assert request.head is not None
        self._request = request
        self._form = request.head.form
        self._echo = echo
        self._events = EventSplitter() if echo is not None and request.head.form is Form.RAW else None
        self._offset = 0
        self._ready: deque[bytes] = deque()  # read already, not given yet

    async def next(self) -> bytes | None:
        """Return the next frame, None at the end."""
        size = _BLOCK_BYTES
        while not self._ready:
            if not await self._request.wait_beyond(self._offset):
                return None
            block = self._request.spool.read(self._offset, size)
            if self._form is Form.LINES:
                # The writer writes whole lines: a line is cut here by the block's size only.
                block = block[: block.rfind(b"\n") + 1]
                self._ready.extend(block.splitlines(keepends=True))
                size *= 2
            elif self._events is not None:
                self._ready.extend(self._events.feed(block))
            else:
                self._ready.append(block)
            self._offset += len(block)
        frame = self._ready.popleft()
        if self._echo is None:
            return frame
        return self._echo.event(frame) if self._events is not None else self._echo.line(frame)
