"""What the end of an answer says of it: which model gave it, and whether it stopped because it had become long enough.

Read from kept bytes in any face: native lines, one JSON body, SSE events.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.wire.json_go import NotJson, decode
from supervisord_ai.wire.sse import EventSplitter, read_event

_AT_LENGTH = frozenset({"length", "max_tokens"})


def served_model(body: bytes, *, is_lines: bool) -> str | None:
    """Return the model that an answer names; None when it names none."""
    for value in _objects(body, is_lines=is_lines):
        message = value.get("message")
        for holder in (value, message if isinstance(message, dict) else {}):
            model = holder.get("model")
            if isinstance(model, str) and model:
                return model
    return None


def ended_at_length(body: bytes, *, is_lines: bool) -> bool:
    """Say whether an answer stopped at a bound and not at its end."""
    return any(reason in _AT_LENGTH for value in _objects(body, is_lines=is_lines) for reason in _reasons(value))


def _reasons(value: JsonObject) -> Iterator[str]:
    choices, delta = value.get("choices"), value.get("delta")
    for holder in (value, delta, *(choices if isinstance(choices, list) else ())):
        if isinstance(holder, dict):
            for name in ("done_reason", "finish_reason", "stop_reason"):
                reason = holder.get(name)
                if isinstance(reason, str):
                    yield reason


def _objects(body: bytes, *, is_lines: bool) -> Iterator[JsonObject]:
    """The JSON objects of an answer that can tell: of native lines the last, of others all."""
    if is_lines:
        pieces = [body.rstrip(b"\n").rpartition(b"\n")[2]]
    elif body.lstrip().startswith(b"{"):
        pieces = [body]
    else:
        pieces = [read_event(event).data for event in EventSplitter(max_event_bytes=len(body) + 1).feed(body)]
    for piece in pieces:
        try:
            value = decode(piece)
        except NotJson:
            continue
        if isinstance(value, dict):
            yield value
