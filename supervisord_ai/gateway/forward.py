"""Calls that need no slot: cheap metadata for everybody, administration for the owner. Passed on as they are."""

from __future__ import annotations

import trio

from supervisord_ai.core.calls import Call
from supervisord_ai.errors import Refused, UpstreamCut, UpstreamUnreachable
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.ollama.client import Reply
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.ollama import error_line

METADATA_AT_ONCE = 4  # Ollama answers these in a millisecond, but `show` reads a file
METADATA_WITHIN_S = 30.0  # the reader's time included


class Forward:
    """Passes calls on to a backend."""

    def __init__(self) -> None:
        self._metadata = trio.CapacityLimiter(METADATA_AT_ONCE)

    async def metadata(self, exchange: Exchange, call: Call, backend: Backend) -> None:
        """Pass on a cheap call.

        Raises:
            Refused: 502, the backend does not answer.
            PeerGone: the caller left.
        """
        async with self._metadata:
            with trio.move_on_after(METADATA_WITHIN_S) as scope:
                await self._pass_on(exchange, call, backend)
        if scope.cancelled_caught and not exchange.is_started:
            raise Refused(504, f"Ollama was silent for {METADATA_WITHIN_S:.0f} s")
        if not exchange.is_finished:
            exchange.break_off()

    async def admin(self, exchange: Exchange, call: Call, backend: Backend) -> None:
        """Pass on what changes the backend's models; what is known of them is asked anew afterwards. Raises: as metadata."""
        try:
            await self._pass_on(exchange, call, backend)
        finally:
            backend.invalidate()
            backend.ask_now()

    async def _pass_on(self, exchange: Exchange, call: Call, backend: Backend) -> None:
        # A HEAD is asked as GET, so that its length is known without trusting a bodiless answer's framing.
        method = exchange.head.method
        if method == "HEAD" and "GET" in call.route.methods:
            method = "GET"
        path = f"{call.upstream_path}?{exchange.head.query}" if exchange.head.query else call.upstream_path
        try:
            async with backend.client.open(method, path, body=call.upstream_body.pieces()) as reply:
                await self._give(exchange, call, reply)
        except UpstreamUnreachable as exc:
            backend.lost(str(exc))
            raise Refused(502, f"Ollama cannot be reached: {exc}") from exc
        except UpstreamCut as exc:
            backend.ask_now()
            message = f"Ollama broke off its answer after {exc.after_bytes} bytes"
            if not exchange.is_started:
                raise Refused(502, message) from exc
            await exchange.send(error_line(call.face, message))
            await exchange.finish()

    async def _give(self, exchange: Exchange, call: Call, reply: Reply) -> None:
        content_type = reply.headers.get("Content-Type")
        headers = [("Content-Type", content_type)] if content_type is not None else []
        if reply.headers.get("Content-Length") is None and call.asked_stream:
            await exchange.start(reply.status, headers)
            while (chunk := await reply.next_chunk()) is not None:
                await exchange.send(chunk)
            await exchange.finish()
            return
        body = bytearray()
        while (chunk := await reply.next_chunk()) is not None:
            body += chunk
        await exchange.respond(reply.status, headers, bytes(body))
