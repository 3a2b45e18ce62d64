"""Server-sent events as the /v1 faces send them: split into events, and whether a stream came to its proper end."""

from __future__ import annotations

from supervisord_ai.core.calls import Face


class EventSplitter:
    """Cuts a byte stream into whole events (with their blank line), whatever its chunks are."""

    def feed(self, data: bytes) -> list[bytes]:
        raise NotImplementedError

    @property
    def tail(self) -> bytes:
        raise NotImplementedError


def is_final(face: Face, event: bytes, path: str = "") -> bool:
    """Whether this event is the one without which a stream counts as cut: `[DONE]`, `message_stop`, `response.completed`."""
    raise NotImplementedError
