"""How a face tells what the native handlers found: the same lines in three dialects.

Ollama's other faces are writers wrapped around its native handlers, and their oddities come from that (an error in the middle
of a stream arrives at the OpenAI writer as a line without a model, and leaves as an empty chunk). This module has the contract
and the native voice.
"""

from __future__ import annotations

from typing import Protocol

from .gojson import JsonObject, encode
from .turn import Turn

JSON = ("Content-Type", "application/json; charset=utf-8")
JSON_OF_A_WRITER = ("Content-Type", "application/json")
NDJSON = ("Content-Type", "application/x-ndjson")


class Voice(Protocol):
    """One answer in one dialect."""

    async def refuse(self, status: int, message: str) -> None:
        """An error before the stream was begun: one body with its length."""

    async def fail_first(self, status: int, message: str) -> None:
        """An error of a streaming call before its first line: a real status, chunked."""

    async def line(self, line: JsonObject) -> None:
        """One native line of a stream; the first one sends the head."""

    async def fail_late(self, message: str) -> None:
        """An error after the first line."""

    async def finish(self) -> None:
        """The clean end of a stream that said at least one line."""

    async def single(self, answer: JsonObject) -> None:
        """The one body of a call that does not stream, and of every load and unload."""


class NativeVoice:
    """/api/*: NDJSON lines, or one JSON object without a newline."""

    def __init__(self, turn: Turn, *, has_early_status: bool = True) -> None:
        self._turn = turn
        self._has_early_status = has_early_status

    async def refuse(self, status: int, message: str) -> None:
        await self._turn.respond(status, [JSON], encode({"error": message}))

    async def fail_first(self, status: int, message: str) -> None:
        if not self._has_early_status:  # before 0.12.6 a stream was always a success
            await self.line({"error": message})
        else:
            await self._turn.start(status, [JSON_OF_A_WRITER])
            await self._turn.send(encode({"error": message}))
        await self._turn.finish()

    async def line(self, line: JsonObject) -> None:
        if not self._turn.is_started:
            await self._turn.start(200, [NDJSON])
        await self._turn.send(encode(line) + b"\n")

    async def fail_late(self, message: str) -> None:
        await self.line({"error": message})
        await self._turn.finish()

    async def finish(self) -> None:
        await self._turn.finish()

    async def single(self, answer: JsonObject) -> None:
        await self._turn.respond(200, [JSON], encode(answer))
