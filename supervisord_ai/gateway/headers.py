"""The headers we give with an answer, beside those of Ollama."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from supervisord_ai.core.calls import Call, Op
from supervisord_ai.core.degraded import Degraded
from supervisord_ai.gateway.request import Request, Times

Headers = list[tuple[str, str]]


def headers_of(request: Request, now: float) -> Headers:
    """Return what an answer of a slot carries. What is not known yet when the head is sent (a total) is left out."""
    cache = f"ai-supervisor; {request.cache_status}" if request.cache_status else ""
    if cache and request.is_collapsed:
        cache += "; collapsed"  # RFC 9211 2.3: answered together with another's request
    headers = _common(request.id, request.attempt, request.call, cache)
    degraded = degraded_of(request)
    if degraded is not None:
        headers.append(("X-AI-Degraded", degraded_words(degraded)))
    return [*headers, ("Server-Timing", server_timing(request.times, now))]


def degraded_of(request: Request) -> Degraded | None:
    """Return what a level did to the answer of a request."""
    cut = request.answer.degraded if request.found is None else None
    if request.stood_in is None:
        return cut
    asked, served = request.stood_in.call.model, request.call.model
    return Degraded(request.stood_in.level, cut.num_predict if cut is not None else None, asked, served)


def degraded_words(degraded: Degraded) -> str:
    """Return the value of `X-AI-Degraded`: the level, then what it did."""
    words = [f"level={degraded.level}"]
    if degraded.asked is not None:
        words += [f'asked="{degraded.asked}"', f'served="{degraded.served}"']
    if degraded.num_predict is not None:
        words.append(f"num_predict={degraded.num_predict}")
    return "; ".join(words)


def location_of(request_id: str) -> str:
    """Return where a request is told of."""
    return f"/supervisor/v1/requests/{request_id}"


def accepted_headers(request_id: str) -> Headers:
    """Return what a 202 carries."""
    return [
        ("Content-Type", "application/json; charset=utf-8"),
        ("Location", location_of(request_id)),
        ("Preference-Applied", "respond-async"),
        ("X-Request-Id", request_id),
    ]


def kept_headers(request_id: str, attempt: int, call: Call) -> Headers:
    """Return what the kept answer of a row carries when its caller comes back for it."""
    return _common(request_id, attempt, call, "ai-supervisor; hit; detail=rejoined")


def hit_headers(request_id: str, call: Call, status: str, *, took_s: float) -> Headers:
    """Return what an answer from the cache carries; `status` is RFC 9211's, `hit` and what there is to say of it."""
    timing = ("Server-Timing", f"queue;dur=0.0, total;dur={took_s * 1000:.1f}")
    return [*_common(request_id, 0, call, f"ai-supervisor; {status}"), timing]


def _common(request_id: str, attempt: int, call: Call, cache_status: str) -> Headers:
    headers = [("X-Request-Id", request_id)]
    if attempt:
        headers.append(("X-AI-Attempt", str(attempt)))
    if cache_status:
        headers.append(("Cache-Status", cache_status))
    if call.not_granted:
        headers.append(("X-AI-Options", not_granted(call.not_granted)))
    if call.asked_stream and call.route.op in {Op.MESSAGES, Op.RESPONSES}:
        headers.append(("Cache-Control", "no-cache"))  # Ollama's own, on the streams of these two, errors included
    return headers


def not_granted(options: tuple[str, ...]) -> str:
    """Return the value of `X-AI-Options`: what was asked and dropped, because runner options have one owner."""
    return "not granted: " + ", ".join(options)


def server_timing(times: Times, now: float) -> str:
    """Return where the time went, in milliseconds (W3C Server-Timing)."""
    started_at = times.started_at if times.started_at is not None else now
    parts = [("queue", started_at - times.accepted_at - times.load_s), ("load", times.load_s)]
    if times.first_byte_at is not None:
        parts.append(("ttft", times.first_byte_at - started_at))
    if times.ended_at is not None:
        parts.append(("total", times.ended_at - times.accepted_at))
    return ", ".join(f"{name};dur={max(seconds, 0.0) * 1000:.1f}" for name, seconds in parts)


def rfc3339(wall: float) -> str:
    """Return a wall time as Ollama writes `created_at`."""
    micros = round(wall * 1e6)
    return f"{_second(micros // 1_000_000)}.{micros % 1_000_000:06d}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
