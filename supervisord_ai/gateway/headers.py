"""The headers we give with an answer, beside those of Ollama."""

from __future__ import annotations

from supervisord_ai.gateway.request import Request, Times


def headers_of(request: Request, now: float) -> list[tuple[str, str]]:
    """Return what an answer of a slot carries. What is not known yet when the head is sent (a total) is left out."""
    headers = [("X-Request-Id", request.id), ("X-AI-Attempt", str(max(request.attempt, request.row.attempt, 1)))]
    if request.cache_status:
        headers.append(("Cache-Status", f"ai-supervisor; {request.cache_status}"))
    if request.call.not_granted:
        headers.append(("X-AI-Options", not_granted(request.call.not_granted)))
    headers.append(("Server-Timing", server_timing(request.times, now)))
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
