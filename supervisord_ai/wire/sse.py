"""Server-sent events as the /v1 faces send them: split into events, and whether a stream came to its proper end.

A stream without its final event is a cut one, even where the framing ended well: Ollama swallows an error in the middle of an
OpenAI or Anthropic stream and just stops, which clients take for success.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisord_ai.core.calls import Face, JsonObject
from supervisord_ai.wire.json_go import NotJson, decode, encode
from supervisord_ai.wire.ndjson import LineTooLong

MAX_EVENT_BYTES = 8_000_000

_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data` is its data lines joined by LF; `name` is "" where there is no `event:` line."""

    name: str
    data: bytes

    @property
    def json(self) -> JsonObject | None:
        """The data as a JSON object, None if it is none (`[DONE]`)."""
        try:
            value = decode(self.data)
        except NotJson:
            return None
        return value if isinstance(value, dict) else None


class EventSplitter:
    """Cuts a byte stream into whole events (with their blank line), whatever its chunks are."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()
        self._seen = 0  # up to here there is no end: what was searched is not searched again

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete events as they came.

        Raises:
            LineTooLong: the event under way has passed the bound.
        """
        self._held += data
        events = []
        start = 0
        longest = 0
        for found in _END.finditer(self._held, max(0, self._seen - 3)):
            events.append(bytes(self._held[start : found.end()]))
            longest = max(longest, found.start() - start)
            start = found.end()
        del self._held[:start]
        self._seen = len(self._held)
        if max(longest, self._seen) > self._max_event_bytes:
            raise LineTooLong(f"an event of more than {self._max_event_bytes} bytes")
        return [event for event in events if event.strip()]

    @property
    def tail(self) -> bytes:
        """What came after the last whole event."""
        return bytes(self._held)


def read_event(event: bytes) -> Event:
    """Read one whole event."""
    name, data = "", []
    for line in event.replace(b"\r\n", b"\n").split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
    return Event(name, b"\n".join(data))


def write_event(event: Event) -> bytes:
    """Write one event with its blank line."""
    head = f"event: {event.name}\n".encode() if event.name else b""
    return head + b"data: " + event.data + b"\n\n"


def reencode(event: bytes) -> bytes:
    """Return the same event with its JSON in ASCII: U+2028 and its kin end lines for some readers."""
    if event.isascii():
        return event
    read = read_event(event)
    value = read.json
    return event if value is None else write_event(Event(read.name, encode(value)))


def is_final(face: Face, event: bytes, path: str = "") -> bool:
    """Whether this is the event without which a stream counts as cut: `[DONE]`, `message_stop`, `response.completed`."""
    read = read_event(event)
    if face == Face.ANTHROPIC:
        return read.name == "message_stop"
    if path.startswith("/v1/responses"):
        return read.name in {"response.completed", "response.incomplete", "response.failed"}
    return not read.name and read.data.strip() == b"[DONE]"
