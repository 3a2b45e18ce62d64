"""The caller's dialect: errors in the shapes of Ollama, OpenAI and Anthropic, and kept /v1 answers made new.

An error before the first byte is a status and a body; one after it can only be a last line. For the /v1 faces that line is an
improvement on Ollama, which stops in the middle and lets the client take it for success: the SDKs of both raise on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from supervisord_ai.core.calls import Face, JsonObject, Op, face_of
from supervisord_ai.errors import Refused
from supervisord_ai.wire.json_go import NotJson, decode, encode
from supervisord_ai.wire.sse import Event, EventSplitter, read_event, write_event

JSON_TYPE = "application/json; charset=utf-8"
NOT_FOUND_TEXT = "404 page not found"
WRONG_METHOD_TEXT = "405 method not allowed"

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(face: Face, status: int, message: str) -> tuple[str, bytes]:
    """An error answer before anything was sent: (content type, body)."""
    return JSON_TYPE, encode(_error(face, status, message, with_id=True))


def error_line(face: Face, message: str) -> bytes:
    """The error that ends a stream already begun."""
    said = encode(_error(face, 500, message, with_id=False))
    if face == Face.OLLAMA:
        return said + b"\n"
    return write_event(Event("error" if face == Face.ANTHROPIC else "", said))


def _error(face: Face, status: int, message: str, *, with_id: bool) -> JsonObject:
    text = _prose(message)
    if face == Face.OLLAMA:
        return {"error": text}
    if face == Face.OPENAI:
        return {"error": {"message": text, "type": _OPENAI_TYPES.get(status, "api_error"), "param": None, "code": None}}
    made: JsonObject = {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": text}}
    if with_id:
        made["request_id"] = "req_" + hashlib.sha256(f"{status} {text}".encode()).hexdigest()[:24]
    return made


def error_text(body: bytes) -> str:
    """Return what an error body of any face says."""
    value = _object(body)
    said = value.get("error") if value is not None else None
    if isinstance(said, dict):
        said = said.get("message")
    return said if isinstance(said, str) and said else "Ollama answered with an error"


def _prose(message: str) -> str:
    """ollama-python reads the whole text of an error as JSON when it can, and fails on anything but an object."""
    try:
        value = json.loads(message)
    except ValueError:
        return message
    except RecursionError:
        return f"error: {message}"
    return message if isinstance(value, dict) else f"error: {message}"


def refusal(method: str, path: str, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of a refusal: the router's own in plain text, as gin writes them; all others in the caller's face."""
    headers: list[tuple[str, str]] = []
    if refused.allow is not None:
        headers.append(("Allow", refused.allow))
    if refused.location is not None:
        headers.append(("Location", refused.location))
        if method not in {"GET", "HEAD"}:
            return headers, b""
        words = "Moved Permanently" if refused.status == 301 else "Temporary Redirect"
        body = f'<a href="{_escape(refused.location)}">{words}</a>.\n\n' if method == "GET" else ""
        return [*headers, ("Content-Type", "text/html; charset=utf-8")], body.encode()
    if refused.status == 204:
        return headers, b""
    if refused.message in {NOT_FOUND_TEXT, WRONG_METHOD_TEXT}:
        return [*headers, ("Content-Type", "text/plain")], refused.message.encode()
    content_type, shaped = error_body(face_of(path), refused.status, refused.message)
    return [*headers, ("Content-Type", content_type)], shaped


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&#34;").replace("'", "&#39;").replace("<", "&lt;").replace(">", "&gt;")


# --- kept answers of the /v1 faces ------------------------------------------------------------------------------------


def why_not_kept_raw(op: Op, status: int, body: bytes, *, is_stream: bool) -> str:
    """Say why a /v1 answer may not be kept, "" if it may: whole, finished, without error and without a tool call."""
    if status != 200:
        return f"status {status}"
    if op == Op.RESPONSES:
        return "an answer of /v1/responses is somebody's state"
    if is_stream:
        return _why_not_stream(op, body)
    value = _object(body)
    if value is None or "error" in value:
        return "it is not an answer"
    if op == Op.V1_EMBEDDINGS:
        return "" if value.get("data") else "no embeddings"
    return _why_not_finished(_finishes(value))


def _why_not_stream(op: Op, body: bytes) -> str:
    splitter = EventSplitter(max_event_bytes=len(body) + 1)
    events = [read_event(event) for event in splitter.feed(body)]
    if splitter.tail.strip() or not events:
        return "it was cut"
    is_ended = events[-1].name == "message_stop" if op == Op.MESSAGES else events[-1].data.strip() == b"[DONE]"
    if not is_ended:
        return "it has no final event"
    finishes: list[str] = []
    for event in events:
        value = event.json
        if value is None:
            continue
        if event.name == "error" or "error" in value:
            return "it holds an error"
        finishes += _finishes(value)
    return _why_not_finished(finishes)


def _finishes(value: JsonObject) -> list[str]:
    """Why the model stopped, from a body or an event."""
    choices = value.get("choices")
    delta = value.get("delta")
    holders = [*choices] if isinstance(choices, list) else [value, delta]
    said = [holder.get(name) for holder in holders if isinstance(holder, dict) for name in ("finish_reason", "stop_reason")]
    return [reason for reason in said if isinstance(reason, str)]


def _why_not_finished(finishes: Sequence[str]) -> str:
    if not finishes:
        return "the model did not finish"
    if {"tool_calls", "tool_use"} & set(finishes):
        return "it calls a tool"
    return "it loads a model" if "load" in finishes else ""


def renewed_raw(body: bytes, *, is_stream: bool, model: str, created: int, new_id: str) -> bytes:
    """A kept /v1 answer for another caller: his model name, a new id and time; text and usage stay.

    `new_id` is digits or hex; it goes behind the prefix the face uses (`chatcmpl-`, `cmpl-`, `msg_`).
    """
    if not is_stream:
        value = _object(body)
        end = b"\n" if body.endswith(b"\n") else b""
        return body if value is None else encode(_renew(value, model, created, new_id)) + end
    splitter = EventSplitter(max_event_bytes=len(body) + 1)
    made = []
    for raw in splitter.feed(body):
        event = read_event(raw)
        value = event.json
        made.append(raw if value is None else write_event(Event(event.name, encode(_renew(value, model, created, new_id)))))
    return b"".join(made)


def _renew(value: JsonObject, model: str, created: int, new_id: str) -> JsonObject:
    made = dict(value)
    old_id, message = made.get("id"), made.get("message")
    if isinstance(old_id, str):
        prefix = next((p for p in ("chatcmpl-", "cmpl-", "msg_") if old_id.startswith(p)), "")
        made["id"] = prefix + new_id
    if "model" in made:
        made["model"] = model
    if "created" in made:
        made["created"] = created
    if isinstance(message, dict) and made.get("type") == "message_start":
        made["message"] = _renew(message, model, created, new_id)
    return made


def _object(body: bytes) -> JsonObject | None:
    try:
        value = decode(body)
    except NotJson:
        return None
    return value if isinstance(value, dict) else None
